"""``/livez``, ``/readyz`` and ``/version``."""
