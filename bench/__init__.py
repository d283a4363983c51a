"""The benchmark: Image Mirror against its peers, the same images from the same source into the same S3 server."""
