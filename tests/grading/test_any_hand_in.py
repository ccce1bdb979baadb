"""Property: whatever a hand-in is, its run ends well, and each test has a verdict and its points.

`WHETSTONE_HAND_INS=2000 pytest tests/grading/test_any_hand_in.py` makes that many; a few dozen without it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.grading.conftest import TOY, environment
from tests.grading.test_odd_hand_ins import LEFT_CHANGED

HAND_INS = int(os.environ.get("WHETSTONE_HAND_INS", "60"))
BATCH = 20  # hand-ins that one process grades, one after the other
SOLUTION = (TOY / "solutions/week1/mean.py").read_text("utf-8")
TESTS = 7
POINTS = 10

# What a function does instead of its work.
WRONG = (
    "return x",
    "return 3",
    "return None",
    "return x.sum(-1)",
    "return x.mean().item()",
    "return (x, x)",
    "return {}",
    "return x.mean(-1).to_sparse()",
    "return x.mean(-1).to(torch.complex64)",
    "return torch.empty(0)",
    "return object",
    "return x.mul_(2).mean(-1)",
    "return x.new_tensor(float('nan'))",
    "return torch.nn.Parameter(x.mean(-1))",
    "yield x",
    "return iter([x])",
    "return 'x' * 10_000_000",
    "return unknown",
)
CRASHING = (
    "raise ValueError(x)",
    "raise NotImplementedError('later')",
    "raise KeyboardInterrupt",
    "raise SystemExit(0)",
    "raise GeneratorExit",
    "raise StopIteration",
    "raise MemoryError",
    "raise BaseException",
    "raise ExceptionGroup('', [ValueError()])",
    "raise type('E', (Exception,), {'__str__': 1})",
    "assert False",
    "exit(0)",
    "import os; os._exit(0)",
    "import os; os.abort()",
    "import os; os.kill(os.getpid(), 15)",
    "import os; os.execlp('true', 'true')",
    "import atexit, os; atexit.register(os._exit, 0)",
    "import multiprocessing; multiprocessing.get_context('spawn').Pool(1)",
    "import pytest; pytest.skip('no')",
    "import pytest; pytest.exit('no', 0)",
    "import unittest; raise unittest.SkipTest",
    "import sys; sys.stdout.close(); sys.stderr.close()",
    "import sys; sys.stdout = None",
    "import warnings; warnings.warn('x'); return x",
    "input()",
    "return weighted_mean(x)",
)
HANGING = ("while True: pass", "import time; time.sleep(600)", "while True:\n        try: x + 1\n        except: pass")
KINDS = ("3", "None", "'text'", "[]", "int", "torch", "torch.ones(3)", "lambda: 0", "lambda *a, **k: (yield)", "print")

# What keeps a file from loading, or nearly does.
UNLOADABLE = (
    "def broken(",
    "x = (",
    "if True:\nx = 1",
    "\tx = 1\n        y = 2",
    "return 3",
    "'",
    "x = 1 +",
    "nonlocal x",
    "await x",
    "print 'x'",
    "\0",
    "é = \udce9",
    "(" * 300,
    "import no_such_package",
    "from . import no_such_file",
    "from .mean import weighted_mean as w",
    "from solutions.week1.mean import weighted_mean",
    "from helpers import a",
    "from __future__ import nothing",
    "import json; json.nothing",
    "import sys; sys.modules[__name__] = None",
    "import sys; del sys.modules[__name__]",
    "import sys; sys.exit('no')",
    "import os; os._exit(0)",
    "import pytest; pytest.skip('no', allow_module_level=True)",
    "import time; time.sleep(600)",
    "while True: pass",
    "def f(): return f()\nf()",
    "1 / 0",
    "assert False",
    "raise SystemExit(0)",
    "raise KeyboardInterrupt",
    "raise NotImplementedError",
    "raise BaseException",
    "print('x' * 20_000_000)",
    "input()",
    "del torch",
    "__getattr__ = 3",
)


def function(body: str) -> str:
    return f"def weighted_mean(x, weights=None, dim=-1):\n    {body}\n"


def module(body: str) -> str:
    return (
        "class Centred(torch.nn.Module):\n    def __init__(self, size):\n        super().__init__()\n"
        f"        self.gain = torch.nn.Parameter(torch.ones(size))\n\n    def forward(self, x):\n        {body}\n"
    )


HEAD, REST = SOLUTION.split("def weighted_mean", 1)
MEAN, REST = REST.split("class Centred", 1)
CENTRED, TAIL = REST.split("def _divide", 1)
MEAN, CENTRED, TAIL = f"def weighted_mean{MEAN}", f"class Centred{CENTRED}", f"def _divide{TAIL}"
STUB = "raise NotImplementedError"
PARTLY = "if weights is not None: raise NotImplementedError\n    return x.mean(dim)"


@dataclass(frozen=True)
class HandIn:
    mean: str  # the source of weighted_mean
    centred: str
    above: str  # a statement before them
    below: str
    in_call: str  # a statement in the right weighted_mean
    isolated: bool

    @property
    def source(self) -> str:
        mean = self.mean.replace("    if weights is None:", f"    {self.in_call or 'pass'}\n    if weights is None:", 1)
        return "\n\n".join([HEAD + self.above, mean, self.centred, TAIL, self.below])

    @property
    def right(self) -> bool:
        return (self.mean, self.centred, self.below, self.in_call) == (MEAN, CENTRED, "", "")


nothing = st.just("")
changes = st.sampled_from([statement for statement, _ in LEFT_CHANGED.values()])
means = st.sampled_from((STUB, PARTLY, *WRONG, *CRASHING)) | st.sampled_from((STUB, *HANGING))
centreds = st.sampled_from((STUB, *WRONG, *CRASHING, HANGING[0]))
kinds = st.sampled_from(KINDS)
hand_ins = st.builds(
    HandIn,
    mean=st.just(MEAN) | means.map(function) | kinds.map("weighted_mean = {}".format) | nothing,
    centred=st.just(CENTRED) | centreds.map(module) | kinds.map("Centred = {}".format) | nothing,
    above=nothing | changes,
    below=nothing | nothing | st.sampled_from(UNLOADABLE),
    in_call=nothing | changes,
    isolated=st.integers(0, 9).map(lambda number: number == 0),
)

GRADE = """
import json, sys
import pytest
for number, isolated in enumerate(json.loads(sys.argv[1])):
    arguments = ["exercises", f"--impl=hand-ins/{number}", f"--report=reports/{number}", "-p", "no:cacheprovider"]
    print(f"<<<{number}", flush=True)
    status = int(pytest.main(arguments + ["--isolate"] * isolated))
    sys.__stdout__.write(f">>>{status}\\n")
    sys.__stdout__.flush()
"""


@settings(
    max_examples=max(1, HAND_INS // BATCH),
    deadline=None,
    derandomize="WHETSTONE_HAND_INS" not in os.environ,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(batch=st.lists(hand_ins, min_size=BATCH, max_size=BATCH))
def test_whatever_a_hand_in_is_its_run_ends_well(batch, tmp_path_factory):
    course = shutil.copytree(TOY, tmp_path_factory.mktemp("any") / "toy", ignore=shutil.ignore_patterns("__pycache__"))
    tests = course / "tests/week1/test_mean.py"
    source = tests.read_text("utf-8").replace("@pytest.mark.limit(seconds=5)\n", "")
    tests.write_text(source.replace("\n\nDTYPES", "\n\npytestmark = pytest.mark.limit(seconds=1)\nDTYPES", 1), "utf-8")
    for number, hand_in in enumerate(batch):
        file = course / f"hand-ins/{number}/week1/mean.py"
        file.parent.mkdir(parents=True)
        file.write_bytes(hand_in.source.encode("utf-8", "surrogateescape"))
    done = subprocess.run(
        [sys.executable, "-c", GRADE, json.dumps([hand_in.isolated for hand_in in batch])],
        cwd=course,
        env=environment(),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=1500,
    )
    runs = done.stdout.split("<<<")[1:]
    for number, hand_in in enumerate(batch):
        shown = f"{dataclasses.asdict(hand_in)}\n{hand_in.source}\n"
        assert number < len(runs), f"the grader ended with {done.returncode} in\n{shown}{done.stderr[-3000:]}"
        check_run(hand_in, runs[number], course / f"reports/{number}/grade.json", shown)


def check_run(hand_in: HandIn, text: str, report: Path, shown: str) -> None:
    shown += text
    assert ">>>" in text, f"the run did not end:\n{shown}"
    status = int(text.rpartition(">>>")[2])
    assert status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), shown
    for sign in ("INTERNALERROR", "Traceback", "the grader broke", "grading/"):
        assert sign not in text, f"{sign}:\n{shown}"
    grade = json.loads(report.read_text("utf-8"))
    records = grade["records"]
    assert len({record["id"] for record in records}) == len(records) == TESTS, shown
    assert {record["verdict"] for record in records} <= {"passed", "failed", "not started"}, shown
    assert all(0 <= record["points"] <= record["max_points"] for record in records), shown
    assert sum(record["max_points"] for record in records) == grade["total"]["max_points"] == POINTS, shown
    assert sum(record["points"] for record in records) == grade["total"]["points"], shown
    assert (status == 0) == (grade["total"]["points"] == POINTS), shown
    assert (hand_in.mean, hand_in.centred) == (MEAN, CENTRED) or grade["total"]["points"] < POINTS, shown
    assert not hand_in.right or grade["total"]["points"] == POINTS, shown
