"""Runs of the performance tests: recorded and saved by pytest-benchmark, compared, plotted."""
