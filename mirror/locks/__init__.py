"""Leases, pins, tag sequences and checkpoints: locks and progress that processes share through Redis."""
