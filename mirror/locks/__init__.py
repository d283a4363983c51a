"""Leases, pins, tag sequences and checkpoints, shared through Redis."""
