"""Who may send fingerprints: CURVE keys, and the guard of an ingest socket that listens wider than it lets in."""
