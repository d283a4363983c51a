"""Load Lua scripts from files and run them in Redis.

A script is a ``*.lua`` file next to the Python module that uses it.

Every script may run twice. A connection can break after Redis did the work and before the reply arrived, and then the
command is sent again. So a second run must find what the first one did and return the same.

How to write a script for ``mirror/locks/pins.py``:

1. Write ``mirror/locks/pin.lua``. Its first lines say what KEYS and ARGV are and what the script returns::

       -- @include mirror/redis/clock.lua
       -- Pins digests for a holder.
       -- ARGV: the holder, then the digests. Returns the first digest that is being deleted, else false.
       redis.call('SET', KEY.pin_holder(ARGV[1]), now() + HOLDER_SECONDS * 1000)

2. Load it once, at import: ``_PIN = load_script("mirror.locks", "pin.lua", constants={"HOLDER_SECONDS": 300})``.
3. Register it in the constructor of the class that runs it: ``self._pin = redis.script(_PIN)``.
4. Run it: ``self._pin(args=[holder, *digests])``, or ``self._pin.many(runs)`` for many runs in few round trips.

What a script may use:

- ``KEY.name`` is a key, and ``KEY.name(id)`` a key with an id in it. The names stand in `mirror.redis.keys.LUA`.
- ``CONSTANT`` is a value that was passed to `load_script`. Include files use the constants of their script.
- ``-- @include folder/file.lua``, alone on a line, inserts that file. The path starts at the repository's root.
  A file that is included twice is inserted once, so include files may include what they need themselves.

The shared include files are ``mirror/redis/clock.lua`` (``now()``) and those that a package keeps for its own scripts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

import redis
from redis.commands.core import Script as RegisteredScript
from redis.exceptions import NoScriptError, ResponseError

from mirror.redis import keys
from mirror.redis.failures import raise_refusals, translated

Run = tuple[Sequence[str], Sequence[str | float]]
"""The keys and the arguments of one run of a script."""

_INCLUDE: Final = re.compile(r"^-- @include (\S+)/([\w-]+\.lua)$", re.MULTILINE)
_KEY: Final = re.compile(r"\bKEY\.(\w+)")
_CONSTANT_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]*")
_BATCH: Final = 64
"""Runs in one round trip. They take Redis about 2 ms, and everything else waits meanwhile."""


def load_script(package: str, file: str, *, constants: Mapping[str, int | float | str] | None = None) -> str:
    """Return the whole Lua text of a script.

    That is its constants, the keys it uses, its include files and its own text.

    *package* is the Python package that holds *file*. Raises LookupError for a key that `keys.LUA` does not have.
    """
    text = _read(package, file, set())
    return "\n".join([*_render_constants(constants or {}), *_render_keys(text), text])


class Script:
    """A Lua script, which is loaded again where Redis lost it, as after a restart."""

    def __init__(self, client: redis.Redis, source: str) -> None:
        self._one = client.register_script(source)
        self._many = client.register_script(_MANY.replace("--[[ SCRIPT ]]", source))

    @property
    def sources(self) -> tuple[str, str]:
        """The texts that Redis must know: one for a single run, and one for many runs."""
        return str(self._one.script), str(self._many.script)

    def __call__(self, keys: Sequence[str] = (), args: Sequence[str | float] = ()) -> Any:
        """Run the script. Raises RedisUnavailable."""
        return _run(self._one, keys, args)

    def many(self, runs: Sequence[Run]) -> list[Any]:
        """Run the script once for each (keys, args), in order.

        A round trip makes up to 64 runs.

        Raises RedisUnavailable, or the error of one run. Then any of the runs may have been made. Measured for 32 runs:
        50 us each, 13 of them CPU of this process. As commands of a pipeline they take 80 us and 28 us.
        """
        results = self.each(runs)
        for result in results:
            if isinstance(result, ResponseError):
                raise result
        return results

    def each(self, runs: Sequence[Run]) -> list[Any]:
        """Run the script many times, and tolerate errors of single runs.

        A run that failed has its ResponseError in place of its result.
        """
        if len(runs) == 1:
            try:
                return [self(*runs[0])]
            except ResponseError as error:
                return [error]
        results: list[Any] = []
        for start in range(0, len(runs), _BATCH):
            batch = runs[start : start + _BATCH]
            counts = [len(part) for run in batch for part in run]
            names = [name for keys, _ in batch for name in keys]
            args = [arg for _, args in batch for arg in args]
            results += raise_refusals(_run(self._many, names, [len(batch), *counts, *args]))
        return results


def _run(script: RegisteredScript, keys: Sequence[str], args: Sequence[str | float]) -> Any:
    """Run a script by its hash, or by its text where Redis does not know the hash.

    The text is sent with the run, in one command. Redis could restart between loading a script and running it.
    """
    client = script.registered_client
    with translated():
        try:
            return client.evalsha(script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return client.eval(str(script.script), len(keys), *keys, *args)


def _read(package: str, file: str, seen: set[str]) -> str:
    """Read a file and its include files, except those that were *seen* before."""
    path = f"{package.replace('.', '/')}/{file}"
    if path in seen:
        return ""
    seen.add(path)
    text = files(package).joinpath(file).read_text("utf-8")
    return f"-- {path}\n" + _INCLUDE.sub(lambda found: _read(found[1].replace("/", "."), found[2], seen), text)


def _render_constants(constants: Mapping[str, int | float | str]) -> list[str]:
    for name in constants:
        if not _CONSTANT_NAME.fullmatch(name):
            raise ValueError(f"{name} is no name for a constant: write it in capitals")
    return [f"local {name} = {_literal(value)}" for name, value in constants.items()]


def _render_keys(text: str) -> list[str]:
    """Render the table KEY with the keys that *text* uses.

    Each run builds the table, so it holds no others.
    """
    names = sorted(set(_KEY.findall(text)))
    if unknown := [name for name in names if name not in keys.LUA]:
        raise LookupError(f"KEY.{unknown[0]} is used, but mirror.redis.keys.LUA does not have it")
    return [f"local KEY = {{{', '.join(f'{name} = {_key(keys.LUA[name])}' for name in names)}}}"] if names else []


def _key(template: str) -> str:
    """Render a key as a string, or as a function where ``*`` stands for the id."""
    before, star, after = template.partition("*")
    if not star:
        return _literal(template)
    tail = f" .. {_literal(after)}" if after else ""
    return f"function(id) return {_literal(before)} .. id{tail} end"


def _literal(value: float | str) -> str:
    """Render a number or a text as Lua."""
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
    return repr(value)


_MANY: Final = load_script("mirror.redis", "many.lua")
