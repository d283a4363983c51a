"""Leases, pins, tag sequences and checkpoints: what processes agree on through Redis."""
