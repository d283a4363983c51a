# make run     start the whole product in the foreground, with its state in ./data. Ctrl-C stops it
# make check   check format, lint, types and import contracts. Takes seconds
# make test    install what tests need, and run all tests
# make bench   measure against the peers that are installed (needs Go). QUICK=1 takes under 20 minutes
# make bench-serving   measure how /v2 serves, next to distribution (needs Go). QUICK=1 only tries it out
#
# make image-test      build the image, and mirror an image with it (needs root or a running Docker)
# make conformance     run the conformance suites of the OCI distribution spec against the service (needs Go)
# make chaos           kill workers, Redis and S3 two hundred times under load. Takes half an hour
# make compose-check   validate deploy/compose
# make lock            write requirements*.txt from requirements*.in, with all hashes
# make clean           remove what the targets above installed. ./data stays
#
# Only Python 3.11 or later must be installed. pip uses the package index that this machine is configured for.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# The folders to lint and to format. One that does not exist yet is left out.
SOURCES := $(wildcard mirror service worker cli deploy bench tests)

.PHONY: run test check bench bench-serving conformance image-test compose-check lock clean

run: $(VENV)/.runs
	@exec $(BIN)/python -m deploy.local

check: $(VENV)/.tests
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

# Five processes, each with its own servers, also on two cores. Tests wait for 40 % of their time, such as for a lease.
# tests/support/run_order.py orders the files. Without --no-loadscope-reorder, xdist would run those with the fewest tests
# last, and these take the longest. Bytecode is written even if the environment forbids it: tests start many processes.
test: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/.tests
	tests/programs
	$(BIN)/pytest --numprocesses=5 --dist=loadfile --no-loadscope-reorder

# ARGS are arguments for bench/run. See docs/benchmarks.md.
bench: $(VENV)/.tests
	bench/programs
	$(BIN)/pytest bench/micro --benchmark-columns=median,iqr,rounds
	bench/run $(if $(QUICK),--quick) $(ARGS)

# ARGS are arguments for python -m bench.serving. See docs/benchmarks.md.
bench-serving: $(VENV)/.tests
	bench/programs
	$(BIN)/python -m bench.serving $(if $(QUICK),--quick) $(ARGS)

conformance: $(VENV)/.tests
	tests/conformance/run $(ARGS)

chaos: $(VENV)/.tests
	tests/programs
	CHAOS_KILLS=$${CHAOS_KILLS:-200} SCHEDULE_SLOTS=$${SCHEDULE_SLOTS:-500} $(BIN)/pytest -s tests/chaos

image-test: $(VENV)/.tests
	deploy/image-test

compose-check:
	deploy/compose/check

# A locked version stays unless a requirements*.in asks for another one. UPGRADE=--upgrade takes the newest.
lock:
	@[ -x .tools/uv/bin/uv ] || { $(PYTHON) -m venv .tools/uv && .tools/uv/bin/pip install --quiet uv==0.13.9; }
	for name in requirements requirements-dev; do \
	  .tools/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header $(UPGRADE) \
	    $$name.in --output-file $$name.txt || exit 1; \
	done

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .schemathesis

# A stamp file is newer than the requirements that were installed. `make run` does not install what only tests need.
# The test requirements include those of the product, so installing them updates both stamps.
$(VENV)/.tests: requirements-dev.txt requirements.txt $(VENV)/pyvenv.cfg
	@$(BIN)/python -m deploy.local.install requirements-dev.txt
	@touch $(VENV)/.runs $@

$(VENV)/.runs: requirements.txt $(VENV)/pyvenv.cfg
	@$(BIN)/python -m deploy.local.install requirements.txt
	@touch $@

# The target is pyvenv.cfg and not bin/python. That one is a link, and `make` would compare the system's Python.
$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Image Mirror needs Python 3.11 or later as '$(PYTHON)'. To use another one: make PYTHON=python3.12 run" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@rm -rf $(VENV)
	@echo 'Creating $(VENV) ...' >&2
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
