"""Scripted servers on real sockets, for behaviour that real servers cannot be made to show."""
