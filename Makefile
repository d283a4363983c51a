# make run     the whole product in the foreground, state in ./data; Ctrl-C stops it
# make check   format, lint, types, import contracts; seconds
# make test    everything tests need, and all tests
# make bench   the benchmark table, against the peers it finds (needs Go); QUICK=1 in under 20 minutes
#
# make image-test      build the image, and mirror an image with it (root, or a Docker that runs)
# make chaos           kill workers, Redis and S3 two hundred times under load; half an hour
# make compose-check   validate deploy/compose
# make lock            write requirements*.txt anew from requirements*.in, with all hashes
# make clean           remove what the above installed; ./data stays
#
# Python 3.11 or later is all that must be there. pip reads packages from wherever this machine is configured to.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# What is there to lint and to type, so that a new folder needs no line here.
SOURCES := $(wildcard mirror service worker cli deploy bench tests)

.PHONY: run test check bench image-test compose-check lock clean

run: $(VENV)/.runs
	@exec $(BIN)/python -m deploy.local

check: $(VENV)/.tests
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two processes, each with servers of its own: half of their time tests wait, for a lease to end or a process to start.
test: $(VENV)/.tests
	tests/programs
	$(BIN)/pytest --numprocesses=2 --dist=loadfile

# ARGS is for bench/run; see docs/benchmarks.md.
bench: $(VENV)/.tests
	bench/programs
	$(BIN)/pytest bench/micro --benchmark-columns=median,iqr,rounds
	bench/run $(if $(QUICK),--quick) $(ARGS)

chaos: $(VENV)/.tests
	tests/programs
	CHAOS_KILLS=$${CHAOS_KILLS:-200} $(BIN)/pytest -s tests/chaos

image-test: $(VENV)/.tests
	deploy/image-test

compose-check:
	deploy/compose/check

# Versions that are locked stay, unless a requirements*.in says otherwise; UPGRADE=--upgrade takes the newest.
lock:
	@[ -x .tools/uv/bin/uv ] || { $(PYTHON) -m venv .tools/uv && .tools/uv/bin/pip install --quiet uv==0.13.9; }
	for name in requirements requirements-dev; do \
	  .tools/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header $(UPGRADE) \
	    $$name.in --output-file $$name.txt || exit 1; \
	done

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .schemathesis

# A stamp is younger than the requirements it was installed from. `make run` does not install what only tests need,
# and what tests need includes what runs, so one installation serves both.
$(VENV)/.tests: requirements-dev.txt requirements.txt $(VENV)/pyvenv.cfg
	@$(BIN)/python -m deploy.local.install requirements-dev.txt
	@touch $(VENV)/.runs $@

$(VENV)/.runs: requirements.txt $(VENV)/pyvenv.cfg
	@$(BIN)/python -m deploy.local.install requirements.txt
	@touch $@

# pyvenv.cfg and not bin/python, which is a link to the system's: `make` would look at, and touch, that one.
$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Image Mirror needs Python 3.11 or later as '$(PYTHON)'; for another one: make PYTHON=python3.12 run" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@rm -rf $(VENV)
	@echo 'Making $(VENV) ...' >&2
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
