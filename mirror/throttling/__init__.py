"""Limits on what all workers together send to a registry or to S3."""
