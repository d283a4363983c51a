"""``/v2``: the OCI distribution API for reading, which is what ``docker pull`` speaks."""
