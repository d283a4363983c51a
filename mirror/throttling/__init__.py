"""Limits on what all workers together send to a registry or to S3.

The limits for registries need no Redis to go on. With Redis away, requests are sent as before, and no copy fails
for it.
"""
