"""``/v1/sync-file``, and the JSON Schema of ``mirror.yaml``."""
