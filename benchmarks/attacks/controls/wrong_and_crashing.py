"""Honest: routing that indexes beyond its tensor

Every call raises an IndexError: no points, no suspicion, and a report as for everybody.
"""

import torch

EXERCISE = "week1/moe"
TESTS = ["test_renormalised_weights_sum_to_one", "test_one_expert_or_all_of_them"]
HONEST = False


def route_top_k(router_logits, k, renormalize):
    weights, experts = router_logits.softmax(-1).topk(k)
    return weights[..., [k]], experts
