"""What model files, runtime files and hosts say about themselves."""
