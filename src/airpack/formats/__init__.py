"""Bytes to values and back, pure: no disk, no clock, no network. What was read is bounded and strict."""
