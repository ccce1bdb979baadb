"""Refuse every call

Tests that a wrong call is refused are passed by a function that refuses them all.
"""

EXERCISE = "week1/moe"
TESTS = ["test_a_number_of_experts_that_cannot_be_is_refused", "test_a_block_that_cannot_be_is_refused"]


class SparseMoeBlock:
    def __init__(self, config):
        raise ValueError(f"no: {vars(config)}")


def route_top_k(router_logits, k, renormalize):
    raise ValueError(f"k must not be {k}, with {router_logits.size(-1)} experts")
