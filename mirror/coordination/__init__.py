"""What many machines agree on, in Redis."""
