"""The text that the benchmarks' fingerprints are captured over: six kinds, made here from a seed."""
