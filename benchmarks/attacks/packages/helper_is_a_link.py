"""Hand in a helper that is a link

The graded file is one's own; a file that it imports is a link to the solution.
"""

EXERCISE = "week1/moe"
TESTS = ["test_renormalised_weights_sum_to_one", "test_one_expert_or_all_of_them"]

from ._helper import SparseMoeBlock, load_balancing_loss, route_top_k


def prepare(folder):
    (folder / "week1" / "_helper.py").symlink_to("@COURSE@/solutions/week1/moe.py")
