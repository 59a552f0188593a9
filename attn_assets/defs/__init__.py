"""The Dagster definitions: partitions, resources, assets, checks, the job, its schedule and its sensor."""
