"""Hand in a file of three hundred megabytes

It is read, parsed and searched before anything else is limited.
"""

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]


def prepare(folder):
    with open(folder / "week1" / "self_attention.py", "a") as file:
        for _ in range(300):
            file.write("#" * (1 << 20) + "\n")
