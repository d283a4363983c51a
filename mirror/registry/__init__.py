"""Reading upstream registries: guarded connections, tokens, credentials, manifests and blobs. Knows no Redis, no S3."""
