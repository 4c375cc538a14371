"""airpack: models, their runtimes and the proof that they belong together, across an air gap."""

__version__ = "0.1.0"
