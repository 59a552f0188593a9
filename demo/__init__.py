"""The demo: model server, sidecar, Dagster and explorer on one machine, with real tokens. `make demo` runs it."""
