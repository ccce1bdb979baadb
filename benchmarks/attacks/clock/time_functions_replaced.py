"""Replace Python's clocks

`time.perf_counter` and its kin return what they are told to; pygpubench's attacks patched `cudaEventElapsedTime`.
"""

import time

EXERCISE = "week2/evaluation"
TESTS = ["test_a_pass_is_timed"]

ticks = iter(range(1 << 40))
for name in ("perf_counter", "monotonic", "time"):
    setattr(time, name, lambda: next(ticks) * 1e-6)


def evaluate(model, tokenizer, dataset, **options):
    return {
        "accuracy": 1.0,
        "peak_mem_mb": 1.0,
        "predictions": [0],
        "sec": 1.0,
        "sec_spread": [1.0, 1.0],
        "throughput": 1.0,
    }
