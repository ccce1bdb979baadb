"""Where a submission's code runs, and what is observed of it. Nothing here judges."""
