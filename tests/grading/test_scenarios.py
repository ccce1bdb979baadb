"""Scenarios: what of a test file is shipped with one, and that it then runs as in its file."""

from __future__ import annotations

import importlib.util
import itertools
import pickle
import re
import sys

import pytest
import torch

from grading.ask.scenario import scenario_of
from grading.ask.submission import Submission
from grading.course.trees import Tree
from grading.run.executors import InProcess, Isolated
from grading.run.observer import compile_scenario
from grading.run.sandbox import Sandbox
from tests.grading.conftest import write_hand_in

HAND_IN = '''"""A submission that compiles what it is given."""

import torch
from torch._dynamo.backends.common import aot_autograd


def double(x):
    return 2 * x


def compiled(function):
    """The function behind a wrapper, compiled by a backend that runs the traced graph as it is."""

    def wrapper(*args):
        return function(*args)

    return torch.compile(wrapper, backend=aot_autograd(fw_compiler=lambda graph, inputs: graph))
'''

numbers = itertools.count(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the test files of these tests are: a submission under --isolate can't read it."""
    return tmp_path_factory.mktemp("tests")


@pytest.fixture
def write(folder):
    """`write(text)`: the function `play` of a test file with this text."""

    def write(text):
        path = folder / f"test_scenario_{next(numbers)}.py"
        path.write_text(text, "utf-8")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.play

    return write


@pytest.fixture(scope="module", params=["in-process", "isolated"])
def submission(request, folder, tmp_path_factory):
    hand_in = Tree("hand-in", (write_hand_in(tmp_path_factory.mktemp("hand-in"), mean=HAND_IN),))
    executor = InProcess() if request.param == "in-process" else Isolated(Sandbox("child", forbidden=(folder,)))
    yield Submission(hand_in, "week1/mean", executor)
    executor.close()


def shipped(function):
    """The first line of each import and definition that a scenario ships, in order."""
    scenario = scenario_of(function)
    return [*scenario.imports.splitlines(), *(source.splitlines()[0] for _, source in scenario.definitions)]


def run(function):
    """What the function returns where it runs as a scenario, without a submission."""
    return compile_scenario(scenario_of(function))(None)


# --- what is shipped ----------------------------------------------------------------------------------------------

TRANSITIVE = '''"""Helpers that need helpers."""

from __future__ import annotations

import functools
import json
import math

import torch

from grading import expect

LIMIT = 2 * 3
UNUSED = json.dumps("no")


def play(module, x):
    model = Model(module, LIMIT)
    return {"answer": model(x), "calls": model.calls, "kept": kept(9.0)}


class Counted:
    calls = 0


@functools.cache
def kept(number):
    return root(number)


def root(number):
    return math.sqrt(number)


def unused():
    return UNUSED


class Model(Counted):
    def __init__(self, module, limit):
        self.module, self.limit = module, limit

    def __call__(self, x):
        self.calls += 1
        return torch.clamp(self.module.double(x), max=self.limit)


def test_nothing(submission):
    expect.that(submission, "")
'''


def test_helpers_classes_and_constants_are_shipped_in_file_order(write):
    assert shipped(write(TRANSITIVE)) == [
        "import functools",
        "import math",
        "import torch",
        "LIMIT = 2 * 3",
        "def play(module, x):",
        "class Counted:",
        "@functools.cache",
        "def root(number):",
        "class Model(Counted):",
    ]


def test_a_scenario_runs_here_and_in_isolation(write, submission):
    output = submission.run(write(TRANSITIVE), torch.tensor([1.0, 4.0])).output
    assert output["answer"].tolist() == [2.0, 6.0]
    assert (output["calls"], output["kept"]) == (1, 3.0)


FAILING = '''"""A helper fails."""

import functools


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


class Model:

    @decorated
    def fail(self):
        text = """
        several lines
        """
        raise KeyError(text[:0])


@decorated
def play(module):
    module.double(1)
    Model().fail()
'''


def test_a_traceback_has_the_lines_of_the_file(write, submission):
    function = write(FAILING)
    name = scenario_of(function).filename.rpartition("/")[2]
    traceback = submission.run(function).trouble.traceback
    places = [line for line in traceback.splitlines() if not line.startswith(" ")]
    lines = [(9, "wrapper"), (27, "play"), (9, "wrapper"), (21, "fail")]
    assert places == [f"{name}, line {line}, in {where}" for line, where in lines]


LOCAL = '''"""Local names that are also those of top-level functions."""

from __future__ import annotations

from grading import expect


def size(): ...
def item(): ...
def total(): ...
def Kind(): ...
def Other(): ...


def play(module, size: Kind = 3) -> Kind:
    total: Other = sum(item * size for item in range(3))

    class Box:
        expect = total
        found: Other = [expect, expect + 1]

    return [lambda item: item + size, Box.found][1]
'''


def test_names_that_are_only_local_ship_nothing(write):
    function = write(LOCAL)
    assert shipped(function) == ["def play(module, size: Kind = 3) -> Kind:"]
    assert run(function) == [9, 10]


@pytest.mark.parametrize(
    "annotated",
    [
        "def play(module, x: Nowhere = 1) -> Nowhere:\n    y: Nowhere = x\n    return y",
        "X: Nowhere = 1\n\ndef play(module):\n    return X",
        "class Model:\n    x: Nowhere = 1\n\ndef play(module):\n    return Model.x",
        "import dataclasses\n\n@dataclasses.dataclass\nclass Model:\n    x: Nowhere = 1\n\n"
        "def play(module):\n    return Model().x",
    ],
    ids=["function", "constant", "class", "dataclass"],
)
def test_annotations_are_never_evaluated(write, annotated):
    typed = "if TYPE_CHECKING:\n    from tests.grading import Nowhere\n\n"
    head = f"from __future__ import annotations\n\nfrom typing import TYPE_CHECKING\n\n{typed}"
    function = write(head + annotated)
    assert "TYPE_CHECKING" not in "".join(shipped(function))
    assert run(function) == 1


# --- what a name means --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A, (B, *C) = 1, (2, 3)\n\ndef play(module):\n    return [B, C]", [2, [3]]),
        ("A = B = 2\n\ndef play(module):\n    return B", 2),
        ("A: int = 2\n\ndef play(module):\n    return A", 2),
        ("A = 1\nA = A + 1\nA += 1\n\ndef play(module):\n    return A", 3),
        ("A = {}\nA['b'] = 1\nA['b'] += 1\n\ndef play(module):\n    return A", {"b": 2}),
        ("A = [1]\nA.append(2)\n\ndef play(module):\n    return A", [1, 2]),
        ("A = []\nfor n in range(3):\n    A.append(n)\n\ndef play(module):\n    return A", [0, 1, 2]),
        ("def a():\n    return 1\n\na.b = 2\n\ndef play(module):\n    return a.b", 2),
        ("if 1:\n    def a():\n        return 1\nelse:\n    a = 0\n\ndef play(module):\n    return a()", 1),
        ("for n in range(3):\n    pass\n\ndef play(module):\n    return n", 2),
        ("A = (B := 2) + 1\n\ndef play(module):\n    return B", 2),
        ("K = 1\nF = lambda x: x + K\n\ndef play(module):\n    return F(1)", 2),
        ("K = 2\n\ndef play(module, x=K):\n    return x", 2),
        ("K = 2\n\ndef play(module):\n    return [[K * n for n in range(m)] for m in range(3)][2]", [0, 2]),
        ("K = 2\n\ndef play(module):\n    class A:\n        K = K + 1\n    return A.K", 3),
        ("K = 2\n\ndef play(module):\n    def inner():\n        return K\n    return inner()", 2),
        ("N = 1\n\ndef up():\n    global N\n    N += 1\n\ndef play(module):\n    up()\n    return N", 2),
        ("def up():\n    global N\n    N = 1\n\ndef play(module):\n    up()\n    return N", 1),
        ("def even(n):\n    return n == 0 or odd(n - 1)\n\ndef odd(n):\n    return n > 0 and even(n - 1)\n\n"
         "def play(module):\n    return even(4)", True),
        ("LINES = '\x0c\\n\u2028'\nB = 2\n\ndef play(module):\n    return B", 2),
    ],
    ids=[
        "unpacked", "chained", "annotated", "again", "item", "method", "loop", "attribute", "if", "loop-variable",
        "walrus", "lambda", "default", "comprehension", "class-attribute", "nested-function", "global", "global-only",
        "each-other", "other-line-ends",
    ],
)  # fmt: skip
def test_names_mean_what_they_mean_in_the_file(write, text, value):
    assert write(text)(None) == value
    assert run(write(text)) == value


def test_statements_that_change_other_values_stay_behind(write):
    text = (
        "A, B = [], []\nA.append(1)\nB.append(2)\n\ndef change():\n    B.append(3)\n\ndef play(module):\n    return B"
    )
    assert shipped(write(text)) == ["A, B = [], []", "B.append(2)", "def play(module):"]


# --- imports ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "use", "line"),
    [
        ("import os.path", "os.path.sep", "import os.path"),
        ("import os.path as p", "p.sep", "import os.path as p"),
        ("import json, math", "math.pi", "import math"),
        ("from math import pi, tau as circle", "circle", "from math import tau as circle"),
        ("import xml\nimport xml.dom", "xml.dom.Node.TEXT_NODE", "import xml\nimport xml.dom"),
        ("from math import *", "pi", "from math import *"),
    ],
    ids=["dotted", "dotted-as", "several", "as", "one-package", "star"],
)
def test_imports_come_along(write, statement, use, line):
    function = write(f"import decimal\n{statement}\n\ndef play(module):\n    return {use}")
    assert shipped(function) == [*line.splitlines(), "def play(module):"]
    assert run(function) == function(None)


def test_imports_in_try_and_if_come_along(write):
    function = write(
        "import sys\ntry:\n    import nowhere as lib\nexcept ImportError:\n    import json as lib\n\n"
        "if sys:\n    from math import pi\n\ndef play(module):\n    return lib.dumps(pi)"
    )
    assert shipped(function) == ["import sys", "try:", "if sys:", "def play(module):"]
    assert run(function).startswith("3.14")


@pytest.mark.parametrize(
    ("statement", "use", "name", "module"),
    [
        ("from grading import expect", "expect", "expect", "grading"),
        ("from tests.oracles import scaling as law", "law", "law", "tests.oracles"),
        ("import tests.oracles.scaling", "tests.oracles", "tests", "tests.oracles.scaling"),
        ("import tests.oracles.scaling as law", "law", "law", "tests.oracles.scaling"),
        ("try:\n    from tests.oracles import scaling\nexcept ImportError:\n    scaling = None", "scaling", "scaling",
         "tests.oracles"),
        ("try:\n    from ..oracles import scaling\nexcept ImportError:\n    scaling = None", "scaling", "scaling",
         "..oracles"),
    ],
    ids=["grader", "oracle", "dotted", "dotted-as", "try", "relative"],
)  # fmt: skip
def test_what_the_submission_must_not_see_is_refused(write, statement, use, name, module):
    sentence = f"the scenario play uses {name}, which is imported from {module}"
    function = write(f"{statement}\n\ndef play(module):\n    return {use}")
    with pytest.raises(TypeError, match=f"^{re.escape(sentence)}"):
        scenario_of(function)
    function = write(f"{statement}\n\nLAW = [{use}]\n\ndef play(module):\n    return LAW")
    with pytest.raises(TypeError, match=rf"^{re.escape(sentence)} \(in (LAW|scaling)\)$"):
        scenario_of(function)


def test_an_import_inside_a_function_is_refused_too(write):
    function = write("def play(module):\n    from tests.oracles import scaling\n    return scaling")
    with pytest.raises(TypeError, match=r"^the scenario play uses scaling, which is imported from tests.oracles$"):
        scenario_of(function)


@pytest.mark.parametrize("made", ["outer()", "(lambda module: 1)"])
def test_only_a_top_level_function_is_a_scenario(write, made):
    text = f"def outer():\n    x = 1\n    def play(module):\n        return x\n    return play\n\nplay = {made}"
    with pytest.raises(TypeError, match=r"^the scenario .* is not defined at the top level of its file$"):
        scenario_of(write(text))


# --- the module that a scenario runs in ---------------------------------------------------------------------------

COMPILING = '''"""What the submission is to compile."""

import torch


def tripled(x):
    return 3 * x * torch.ones(())


def play(module, x):
    return module.compiled(tripled)(x)
'''


def test_each_scenario_has_a_registered_module_of_its_own(write):
    function = write("class Model: ...\n\ndef play(module):\n    return Model()")
    first, second = (compile_scenario(scenario_of(function)) for _ in range(2))
    assert len({first.__module__, second.__module__, function.__module__}) == 3
    assert vars(sys.modules[first.__module__]) is first.__globals__
    assert type(pickle.loads(pickle.dumps(first(None)))) is type(first(None))


def test_a_submission_may_compile_what_a_scenario_passes_to_it(write, submission):
    """Two scenarios: if they shared a module name, Dynamo would keep the first one's globals."""
    for factor in (3, 5):
        function = write(COMPILING.replace("3 * x", f"{factor} * x"))
        assert submission.run(function, torch.tensor([1.0, 2.0])).output.tolist() == [factor, 2.0 * factor]


def test_compiling_fails_where_the_module_is_not_registered(write):
    namespace = {}
    exec(HAND_IN, namespace)
    play = compile_scenario(scenario_of(write(COMPILING)))
    del sys.modules[play.__module__]
    with pytest.raises(Exception, match=f"No module named '{play.__module__}'"):
        play(type("Module", (), {"compiled": staticmethod(namespace["compiled"])}), torch.ones(2))
