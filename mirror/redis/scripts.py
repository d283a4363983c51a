"""Load the Lua scripts that Redis runs, from ``*.lua`` files next to the Python module that uses them.

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
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

from mirror.redis import keys

__all__ = ["load_script"]

_INCLUDE: Final = re.compile(r"^-- @include (\S+)/([\w-]+\.lua)$", re.MULTILINE)
_KEY: Final = re.compile(r"\bKEY\.(\w+)")
_CONSTANT_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]*")


def load_script(package: str, file: str, *, constants: Mapping[str, int | float | str] | None = None) -> str:
    """Return the Lua text of a script: its constants, the keys it uses, its include files and its own text.

    *package* is the Python package that holds *file*. Raises LookupError for a key that `keys.LUA` does not have.
    """
    text = _read(package, file, set())
    return "\n".join([*_render_constants(constants or {}), *_render_keys(text), text])


def _read(package: str, file: str, seen: set[str]) -> str:
    """Read a file with its include files in it, but without those that were *seen* before."""
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
    """Render the table KEY with the keys that *text* uses. Each run builds the table, so it holds no others."""
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
