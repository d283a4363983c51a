"""Scripted servers on real sockets, for what real servers do not show on demand."""
