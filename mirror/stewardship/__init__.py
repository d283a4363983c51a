"""Keeping the bucket clean: uploads that no task will complete."""
