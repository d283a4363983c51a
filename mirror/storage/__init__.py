"""The bucket: its keys, its objects, and the stores of blobs, links and provenance in it."""
