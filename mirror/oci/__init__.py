"""Values of the OCI and Docker image formats. They are frozen, and do no I/O."""
