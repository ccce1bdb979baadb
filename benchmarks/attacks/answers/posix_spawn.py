"""Start a reader without the subprocess module

`os.posix_spawn` starts `cat` with its output in a pipe; only `subprocess` and `os.system` may be watched.
"""

import os

EXERCISE = "week1/moe"
TESTS = ["test_renormalised_weights_sum_to_one", "test_one_expert_or_all_of_them"]

reading, writing = os.pipe()
os.posix_spawn(
    "/bin/cat",
    ["cat", "@COURSE@/solutions/week1/moe.py"],
    os.environ,
    file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)],
)
os.close(writing)
exec(os.fdopen(reading, encoding="utf-8").read())
