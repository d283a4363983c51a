"""Copying an image: resolve it at its source, plan what must travel, let it travel."""
