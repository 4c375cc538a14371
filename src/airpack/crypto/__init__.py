"""The only home of cryptography, securesystemslib and tuf: keys, signatures, the TUF channel."""
