"""Runs of the performance tests: recorded by pytest-benchmark, kept, compared, drawn."""
