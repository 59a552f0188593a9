"""The only part of the sidecar that touches SQLite: one writing thread, a few reading ones."""
