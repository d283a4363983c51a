"""What the API's bodies look like: read, written and documented by the same schemas."""
