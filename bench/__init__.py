"""The benchmark: Image Mirror and its peers copy the same images."""
