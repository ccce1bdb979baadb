"""Miss a package

A test that needs a package which is not installed is not gradable here.
"""

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]

raise ModuleNotFoundError("No module named 'triton'", name="triton")
