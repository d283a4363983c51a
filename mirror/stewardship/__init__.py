"""Keeping the bucket tidy: uploads that nobody will finish."""
