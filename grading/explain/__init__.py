"""A failure in words: the call, the values, where they are wrong."""
