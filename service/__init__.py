"""The HTTP side of Image Mirror: the REST API, ``/v2`` for those who pull, and the pages that explain both."""
