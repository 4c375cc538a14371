"""One use case each: the public Python API."""
