"""The client of Redis, the names of its keys, its Lua scripts and its failures."""
