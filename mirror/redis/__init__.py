"""Redis: the client, the names of its keys, its failures."""
