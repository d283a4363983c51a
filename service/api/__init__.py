"""The REST API, one package per resource."""
