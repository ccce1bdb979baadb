"""Put a named pipe where a report will be

Whoever opens it for writing waits until somebody reads.
"""

import os

import torch

EXERCISE = "week1/moe"
TESTS = ["test_renormalised_weights_sum_to_one"]

try:
    os.makedirs("@OTHERS@/../report", exist_ok=True)
    os.mkfifo("@OTHERS@/../report/summary.md")
except OSError:
    pass


def route_top_k(router_logits, k, renormalize):
    return router_logits[..., :k], torch.zeros(*router_logits.shape[:-1], k, dtype=torch.long)
