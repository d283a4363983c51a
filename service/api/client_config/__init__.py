"""``/v1/client-config``."""
