"""What honest work has no use for is marked for review, with its line; honest work of any style never is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from grading.course.layout import Course
from grading.course.review import review
from grading.course.trees import Tree, find_tree
from tests.grading.conftest import ROOT, environment, write_hand_in
from tests.grading.test_students import SOLUTION

COURSE = Course(ROOT)
STYLES = Path(__file__).parent / "styles"
BANK = [(style.name, exercise) for style in sorted(STYLES.iterdir()) for exercise in COURSE.exercises]
READY = "calls what is to be written"  # what wrapping the library's own operator is, and rightly marked

# A line in week1/self_attention.py, and what is found in it.
LINES = {
    "import ctypes": "reaches into the interpreter: ctypes",
    "from ctypes import string_at": "reaches into the interpreter: ctypes",
    "import gc as g": "reaches into the interpreter: gc",
    "import importlib.util": "reaches into the interpreter: importlib",
    "import subprocess": "starts other programs: subprocess",
    "import multiprocessing.shared_memory": "starts other programs: multiprocessing",
    "import socket": "reaches the network or other processes: socket",
    "import signal": "reaches the network or other processes: signal",
    "import atexit": "acts at the end of the process: atexit",
    "from unittest import mock": "replaces what others rely on: unittest",
    "import pytest": "looks at the grader: pytest",
    "from torch.utils._python_dispatch import TorchDispatchMode": "watches what is computed",
    "x = torch.utils._python_dispatch._get_current_dispatch_mode()": "watches what is computed",
    "from torch.overrides import TorchFunctionMode": "watches what is computed: torch.overrides",
    "import pickle": "builds code or loads it: pickle",
    "import base64": "builds code or loads it: base64",
    "import time": "reads the clock: time",
    "import os": "reads or writes files: os",
    "from pathlib import Path": "reads or writes files: pathlib",
    "import threading": "works beside its call: threading",
    "import inspect": "looks at how it is called: inspect",
    "import sys": "looks at how it is called: sys",
    "x = __import__('gc')": "changes how modules are imported: __import__",
    "x = sys.modules['torch']": "changes how modules are imported: sys.modules",
    "x = sys._getframe(1)": "reads the frames of its callers: sys._getframe",
    "x = error.__traceback__.tb_frame.f_locals": "reads the frames of its callers",
    "x = generator.gi_frame": "reads the frames of its callers: generator.gi_frame",
    "x = torch.softmax.__globals__": "looks inside functions or classes of others",
    "x = object.__subclasses__()": "looks inside functions or classes of others: object.__subclasses__",
    "x = getattr(f, '__code__')": "looks inside functions or classes of others: getattr(…, '__code__')",
    "exec('x = 1')": "runs code that is built from text: exec",
    "x = eval('1 + 1')": "runs code that is built from text: eval",
    "x = compile('1', '', 'eval')": "runs code that is built from text: compile",
    "x = globals()['torch']": "runs code that is built from text: globals",
    "torch.softmax = lambda *a: 0": "replaces what others rely on: torch.softmax",
    "torch.Tensor.__add__ = None": "replaces what others rely on: torch.Tensor.__add__",
    "setattr(torch, 'allclose', None)": "replaces what others rely on: setattr(torch, …)",
    "del torch.softmax": "replaces what others rely on: torch.softmax",
    "x = getattr(torch, 'soft' + 'max')": "looks up a name that is put together",
    "x = vars(torch)": "looks inside functions or classes of others: vars(torch)",
    "x = y.data_ptr()": "recognises inputs by where they lie: y.data_ptr",
    "x = open('answers.pt')": "reads or writes files: open",
    "x = torch.load('answers.pt')": "reads or writes files: torch.load",
    "class Mine(torch.Tensor): pass": "defines a tensor of its own: Mine",
    "x.__class__ = Mine": "changes the class of an object: __class__",
    "x = 'PYTEST_CURRENT_TEST'": "names what belongs to the grader: PYTEST_CURRENT_TEST",
    "x = '/proc/self/maps'": "reads or writes files: /proc/",
    "x = torch.nn.functional.scaled_dot_product_attention": READY,
    "from torch.nn.functional import scaled_dot_product_attention as mine": READY,
    "x = getattr(torch.nn.functional, 'scaled_dot_product_attention')": READY,
    "x = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default": READY,
    "x = torch.nn.MultiheadAttention(8, 2)": READY,
    "x = 'scaled_dot_' + 'product_attention'": READY,
    "x = torch.nn.functional.__dict__['scaled_dot_product_attention']": READY,
    "x = operator.attrgetter('scaled_dot_product_attention')(torch.nn.functional)": READY,
    "x = torch.nn.functional.scaled_dot_product_attention.__get__(None, type(None))": READY,
    "class A(torch.nn.MultiheadAttention):\n        def forward(self, x): return super(A, self).forward(x)": READY,
    "def __init__(self): m = torch.nn.MultiheadAttention(8, 2); self.m = m": READY,
}

HONEST = """
import functools, itertools, math, operator, random, re, warnings
from collections import defaultdict
from dataclasses import dataclass
import numpy as np
import torch
from einops import rearrange
from torch import nn
import torch.nn.functional as F

@dataclass
class Settings:
    heads: int = 8

@functools.lru_cache
def mask(size):
    return torch.ones(size, size).triu(1).bool()

class MultiheadAttention(nn.Module):
    def __init__(self, width, heads, **rest):
        super().__init__()
        for name in ("query", "key", "value"):
            setattr(self, name, nn.Linear(width, width))
        self.__dict__.update(rest)
        self.eval()
        self.width = getattr(self, "width", None) or getattr(F, "silu")

    def forward(self, x):
        for module in self.modules():
            module.compile = re.compile("x")
        with torch.no_grad(), warnings.catch_warnings():
            return scaled_dot_product_attention(x, x, x)

def scaled_dot_product_attention(query, key, value):
    scores = query @ key.mT / math.sqrt(query.size(-1))
    return torch.softmax(scores, -1) @ value

if __name__ == "__main__":
    print(MultiheadAttention(8, 2)(torch.randn(1, 2, 8)))
"""


def found(tmp_path: Path, source: str) -> list[str]:
    write_hand_in(tmp_path, self_attention=source)
    return [str(finding) for finding in review(COURSE, Tree("hand-in", (tmp_path,)), "week1/self_attention")]


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_found(tmp_path, line):
    findings = found(tmp_path, f"import torch\n\n\ndef go(x, y, f, error, generator):\n    {line}\n")
    assert findings, "nothing was found"
    assert findings[0].startswith("week1/self_attention.py, line 5: "), findings
    assert LINES[line] in " ".join(findings), findings


def test_honest_work_is_not(tmp_path):
    assert found(tmp_path, HONEST) == []


def test_what_a_helper_of_the_hand_in_does_is_found_too(tmp_path):
    write_hand_in(tmp_path, _own="import gc\n")
    assert found(tmp_path, "from ._own import x\n")[0].startswith("week1/_own.py, line 1: ")


def test_a_finding_names_the_content_of_its_file(tmp_path):
    first, second = found(tmp_path, "import gc\n"), found(tmp_path, "import gc\nx = 1\n")
    assert first != second and first[0].rpartition("(")[0] == second[0].rpartition("(")[0]


@pytest.mark.parametrize(
    "source", ["def (", "\0", "x = " + "(" * 500, "\udcff", "é = 1", "", "import torch\n" * 20_000]
)
def test_whatever_a_file_holds_the_run_goes_on(tmp_path, source):
    path = tmp_path / "week1/self_attention.py"
    path.parent.mkdir()
    path.write_bytes(source.encode("utf-8", "surrogateescape"))
    assert review(COURSE, Tree("hand-in", (tmp_path,)), "week1/self_attention") == ()


@pytest.mark.parametrize("name", ["exercises", "solutions"])
def test_neither_solutions_nor_stubs_are_marked(name):
    tree = find_tree(COURSE, name, ROOT)
    assert [str(finding) for exercise in COURSE.exercises for finding in review(COURSE, tree, exercise)] == []


def test_no_style_is_marked_but_for_wrapping_the_librarys_own():
    """A style that delegates to the library is what READY_MADE is about, and nothing else is found in any."""
    marked = {}
    for style, exercise in BANK:
        if (STYLES / style / f"{exercise}.py").is_file():
            for finding in review(COURSE, Tree(style, (STYLES / style,)), exercise):
                marked.setdefault((style, finding.kind), []).append(str(finding))
    assert set(marked) <= {("delegating", READY)}, marked


def test_no_library_is_marked():
    for name in ("torch", "transformers", "flash_attn", "mamba_ssm"):
        tree = find_tree(COURSE, name, ROOT)
        assert all(review(COURSE, tree, exercise) == () for exercise in COURSE.exercises)


def test_points_for_review_are_shown_everywhere_and_withheld_until_somebody_has_looked(toy, run_pytest, tmp_path):
    source = SOLUTION.replace("import torch\n", "import gc\nimport torch\n", 1)
    hand_in = str(write_hand_in(tmp_path / "hand-in", mean=source))
    line = f"week1/mean.py, line {source.splitlines().index('import gc') + 1}: reaches into the interpreter: gc"
    run = run_pytest(toy, "exercises", "--impl", hand_in, "--no-isolate")
    assert run.status == 0 and run.grade["total"]["points"] == 10
    assert all(record["review"][0].startswith(line) for record in run.grade["records"])
    assert "for review, 10 points" in run.text
    for report in ("summary.md", "index.html", "gradescope/results.json", "classroom/results.json"):
        text = (run.folder / report).read_text("utf-8")
        assert "reaches into the interpreter" in text, report

    strict = ("exercises", "--impl", hand_in, "--no-isolate", "--strict")
    run = run_pytest(toy, *strict)
    assert run.status == 1 and run.grade["total"]["points"] == 0
    assert "withheld until a person has looked" in " ".join(run.text.split())

    command = [sys.executable, "-m", "grading", "--root", str(toy), "accept", str(run.folder), "--by", "Kim"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(f"accepted: {line}"), done.stderr
    again = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert again.stdout == "nothing to accept\n"
    (tmp_path / "report-3").mkdir()  # where `run_pytest` will write next, with one more beside it
    (tmp_path / "report-2").mkdir()
    (run.folder / "accepted.json").rename(tmp_path / "report-3/accepted.json")
    (tmp_path / "report-2").rmdir()
    run = run_pytest(toy, *strict)
    assert run.folder.name == "report-3" and run.status == 0 and run.grade["total"]["points"] == 10


def test_accepting_what_is_no_report_is_one_line(toy, tmp_path):
    command = [sys.executable, "-m", "grading", "--root", str(toy), "accept", str(tmp_path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 4 and done.stderr.count("\n") == 1
