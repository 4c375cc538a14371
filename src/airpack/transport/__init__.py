"""A release's files to a package's volumes and back."""
