"""Discovery as a Dagster project: an hour's fingerprints become a map, clusters, zones and a served classifier."""
