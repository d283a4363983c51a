"""Benchmarks of the code that every byte passes. Only `make bench` runs them."""
