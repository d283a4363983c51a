"""The records of the service's own things, each a dataclass and its Redis store."""
