"""The benchmark: Image Mirror and its peers copy the same images from the same source to the same S3 server."""
