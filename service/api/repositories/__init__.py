"""``/v1/repositories``."""
