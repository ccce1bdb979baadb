"""Hand in a source that nobody can parse

The grader reads the source to find mistakes. A hundred thousand signs in a row are a syntax tree that deep.
"""

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]


def prepare(folder):
    (folder / "week1" / "self_attention.py").write_text("x = " + "-" * 100_000 + "1\n")
