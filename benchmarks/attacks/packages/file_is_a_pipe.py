"""Hand in a named pipe

Whoever opens it for reading waits for a writer who never comes.
"""

EXERCISE = "week1/moe"
TESTS = ["test_renormalised_weights_sum_to_one"]


def prepare(folder):
    import os

    os.mkfifo(folder / "week1" / "_data.py")
