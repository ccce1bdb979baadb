"""Hand in a folder that is a link

`week1` leads to the solutions; no file in it is a link.
"""

EXERCISE = "week1/moe"
TESTS = ["test_renormalised_weights_sum_to_one", "test_one_expert_or_all_of_them"]


def prepare(folder):
    import shutil

    shutil.rmtree(folder / "week1")
    (folder / "week1").symlink_to("@COURSE@/solutions/week1")
