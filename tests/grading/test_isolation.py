"""`--isolate`: if a submission harms its process, it loses the test in which that happens and no other."""

from __future__ import annotations

import re

import pytest

from tests.grading.conftest import write_hand_in
from tests.grading.test_students import SOLUTION, with_body

# What happens in the one test with float16 numbers; the answers in all other tests are right.
DISASTERS = {
    "a hang": ("while True: pass", r"did not finish within 2 s \(stopped at week1/mean.py, line"),
    "a hang that catches everything": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "did not finish within 2 s",
    ),
    "a hang below Python": (
        "import time, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\ntime.sleep(999)",
        "was killed",
    ),
    "os._exit": ("import os\nos._exit(0)", "tried to end the process"),
    "exit below Python": ("import ctypes\nctypes.CDLL(None)._exit(0)", "the process exited with status 0"),
    "a segmentation fault": ("import ctypes\nctypes.string_at(0)", "the process was ended by SIGSEGV"),
    "abort": ("import ctypes\nctypes.CDLL(None).abort()", "the process was ended by SIGABRT"),
    "too much memory": ("torch.zeros(1 << 34).sum()", "ran out of memory"),
    "too much memory in Python": ("[bytes(1 << 20) for _ in range(1 << 20)]", "ran out of memory"),
    "reading the solution": ("open('ROOT/solutions/week1/mean.py').read()", "may not read"),
    "listing the tests": ("import os\nos.listdir('ROOT/tests/week1')", "may not read"),
    "writing to the grader's pipe": (
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'\\1' * 4096)\n    except OSError: pass",
        "interfered with its answer|did not finish",
    ),
    "closing every file": ("import os\nos.closerange(0, 256)", "the process|pipe|Error"),
}


@pytest.mark.parametrize("what", DISASTERS)
def test_a_disaster_costs_one_test(toy, run_pytest, what):
    body, message = DISASTERS[what]
    lines = [
        "    if x.dtype == torch.float16:",
        *(f"        {line}" for line in body.replace("ROOT", str(toy)).splitlines()),
    ]
    source = SOLUTION.replace("    if weights is None:", "\n".join([*lines, "    if weights is None:"]), 1)
    hand_in = write_hand_in(toy.parent / "hand-in", mean=source)
    test_file = toy / "tests/week1/test_mean.py"
    test_file.write_text(
        test_file.read_text("utf-8").replace(
            '@pytest.mark.parametrize("dtype"', '@pytest.mark.limit(seconds=2)\n@pytest.mark.parametrize("dtype"'
        ),
        "utf-8",
    )
    run = run_pytest(toy, "exercises", "--impl", str(hand_in), "--isolate", "--memory-limit", "3000")
    lost = [record for record in run.grade["records"] if record["verdict"] != "passed"]
    assert [record["id"] for record in lost] == ["week1/mean::test_plain_mean[float16]"]
    assert re.search(message, lost[0]["reason"]), lost[0]["reason"]
    assert run.status == 1


def test_the_same_grade_in_both_processes(toy, run_pytest):
    source = with_body("print('here')\nreturn x.sum(dim)")
    hand_in = str(write_hand_in(toy / "hand-in", mean=source))
    runs = [run_pytest(toy, "exercises", "--impl", hand_in, *more) for more in (("--no-isolate",), ("--isolate",))]
    first, second = (run.grade["records"] for run in runs)
    for a, b in zip(first, second, strict=True):
        a["seconds"] = b["seconds"] = 0
        assert a == b


def test_the_child_cannot_import_what_the_judge_knows(toy, run_pytest):
    source = with_body(
        "import sys\nassert not any(n.startswith(('tests', 'solutions')) for n in sys.modules)\nreturn x.mean(dim)"
    )
    run = run_pytest(toy, "exercises", "--impl", str(write_hand_in(toy / "hand-in", mean=source)), "--isolate")
    assert run.record("test_plain_mean[float32]")["verdict"] == "passed"
