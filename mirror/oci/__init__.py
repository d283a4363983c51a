"""Values of the OCI and Docker image formats: pure, frozen, without I/O."""
