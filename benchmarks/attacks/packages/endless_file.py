"""Hand in a link to a file without an end

Reading /dev/zero never stops, and takes all memory.
"""

EXERCISE = "week1/moe"
TESTS = ["test_renormalised_weights_sum_to_one"]


def prepare(folder):
    (folder / "week1" / "_data.py").symlink_to("/dev/zero")
