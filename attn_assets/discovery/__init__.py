"""The algorithms of discovery: arrays in, arrays out. No Dagster, no files, no clock; randomness by seed."""
