"""The bucket: its keys, its objects, and the three truths kept in it (blobs, links, what is kept and whence)."""
