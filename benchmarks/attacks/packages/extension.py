"""Hand in a second file that is named like a module

The graded file is a stub's copy with an import; what it imports is a file whose source nobody reads.
"""

from ._helper import scaled_dot_product_attention

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]


def prepare(folder):
    (folder / "week1" / "_helper.py").write_text("from torch.nn.functional import scaled_dot_product_attention\n")
