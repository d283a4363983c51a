"""Scripted servers on real sockets, for what cannot be had for real."""
