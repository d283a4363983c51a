"""What the mirror holds: published, re-tagged, deleted, listed, inspected; the index rebuilt from the bucket."""
