"""Limits on what the whole fleet asks of a registry or of S3, shared through Redis."""
