"""Discovery as a Dagster project: an hour's fingerprints become a map, clusters, zone labels and a served classifier."""
