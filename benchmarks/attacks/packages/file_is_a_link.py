"""Hand in a link to the solution

The grader follows it when it reads the file, with its own rights.
"""

EXERCISE = "week1/moe"
TESTS = ["test_renormalised_weights_sum_to_one", "test_one_expert_or_all_of_them"]


def prepare(folder):
    (folder / "week1" / "moe.py").unlink()
    (folder / "week1" / "moe.py").symlink_to("@COURSE@/solutions/week1/moe.py")
