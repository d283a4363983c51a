"""The benchmark of serving: ``/v2`` of Image Mirror and of other registries, on the same bucket."""
