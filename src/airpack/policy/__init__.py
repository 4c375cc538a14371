"""Pure decisions: bytes, values and `now` in, a verdict or an error out."""
