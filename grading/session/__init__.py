"""One run of pytest: options, collection, fixtures, verdicts, the end of a run."""
