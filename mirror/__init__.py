"""The core of Image Mirror: everything but HTTP serving, the worker process and the command line."""

__version__ = "0.1.0"
