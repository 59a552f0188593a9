"""The sidecar: takes fingerprints in, keeps them, classifies them and answers for them over HTTP."""

__version__ = "0.1.0"
