"""The inner pieces that every byte goes through, one by one: `make bench` runs them, `make test` does not."""
