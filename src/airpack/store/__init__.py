"""Blobs on disk, under the digest of their raw bytes."""
