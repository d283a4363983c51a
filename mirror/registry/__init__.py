"""Read upstream registries: tokens, credentials, manifests and blobs.

It knows no Redis and no S3.
"""
