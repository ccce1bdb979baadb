"""Runs a submission's code and observes it. Nothing here judges."""
