"""The map of one run in memory: its points in order of rank, and what is asked of them."""
