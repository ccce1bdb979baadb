"""What is known about a Python file without importing it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grading.course.source import (
    SourceError,
    forbidden_imports,
    parse,
    syntax_problem,
    unstarted,
    unstarted_names,
)


def source(text: str) -> str:
    return textwrap.dedent(text).lstrip("\n")


# --- imports ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "modules"),
    [
        ("import solutions.week1.mamba", ["solutions.week1.mamba"]),
        ("import torch, grading as g", ["grading"]),
        ("from tests.oracles import attention", ["tests.oracles"]),
        ("from tests import oracles\nimport grading\nimport grading", ["tests", "grading"]),
        ("def f():\n    import tests\nimport grading", ["tests", "grading"]),
        ("import_module('solutions.week1')", ["solutions.week1"]),
        ("__import__('grading')", ["grading"]),
        ("import gradings, solutions_of_mine, torch.solutions", []),
        ("from .solutions import f", []),
        ("from torch import tests", []),
        ("'import grading'", []),
    ],
)
def test_forbidden_imports(statement, modules):
    assert forbidden_imports(statement, ("grading", "tests", "solutions")) == modules


# --- not started ------------------------------------------------------------------------------------------------

OPEN = "    raise NotImplementedError\n"


@pytest.mark.parametrize(
    ("body", "is_open"),
    [
        ("raise NotImplementedError", True),
        ("raise NotImplementedError()", True),
        ("raise NotImplementedError('to do')", True),
        ("'Doc.'; raise NotImplementedError", True),
        ("pass; ...; raise NotImplementedError", True),
        ("# a comment\n    raise NotImplementedError  # to do", True),
        ("pass", False),
        ("'Doc.'", False),
        ("'Doc.'; return 1", False),
        ("x = 1; raise NotImplementedError", False),
        ("raise NotImplementedError; return 1", False),
        ("if x: raise NotImplementedError", False),
        ("raise ValueError", False),
        ("raise", False),
        ("3", False),
        ("return NotImplementedError", False),
        ("def g(): raise NotImplementedError", False),
    ],
)
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_function_is_open_while_it_only_raises(body, is_open, kind):
    text = f"{kind} f(x):\n    {body}\n"

    assert unstarted(text) is is_open
    assert unstarted_names(text) == ({"f"} if is_open else set())


@pytest.mark.parametrize(
    ("text", "names", "whole"),
    [
        ("", set(), False),
        ("import torch\nLIMIT = 3\n", set(), False),
        ("def f(): return 1\ndef g():\n" + OPEN, {"g"}, False),
        ("def _f(): return 1\nclass _A:\n    def f(self): return 1\ndef g():\n" + OPEN, {"g"}, True),
        ("def _f():\n" + OPEN + "def __f():\n" + OPEN + "def _f__():\n" + OPEN, set(), False),
        ("def __getattr__(name):\n" + OPEN, {"__getattr__"}, True),
        # classes
        ("class A:\n    def f(self): raise NotImplementedError\n    def g(self): return 1\n", set(), False),
        ("class A:\n    def __init__(self): return\n    def f(self): raise NotImplementedError\n", set(), False),
        ("class A:\n    def __init__(self): raise NotImplementedError\n    def _f(self): return 1\n", {"A"}, True),
        ("class A:\n    class B:\n        def f(self): return 1\n    def g(self):\n    " + OPEN, set(), False),
        ("class A:\n    if x:\n        def f(self): raise NotImplementedError\n", {"A"}, True),
        ("class A:\n    @property\n    def f(self): raise NotImplementedError\n", {"A"}, True),
        # what has no body to write
        ("@dataclass\nclass C:\n    x: int = 3\ndef f():\n" + OPEN, {"f"}, True),
        ("class C:\n    x: int = 3\n", set(), False),
        ("@overload\ndef f(x: int): ...\ndef f(x):\n" + OPEN, {"f"}, True),
        ("class P(Protocol):\n    def f(self): ...\ndef f(x):\n" + OPEN, {"f"}, True),
        ("def f(x):\n    'Doc.'\n    ...\n", set(), False),
        # several definitions of one name, conditional ones
        ("def f():\n" + OPEN + "def f(): return 1\n", set(), False),
        ("if x:\n    def f(): return 1\nelse:\n    def f(): raise NotImplementedError\n", set(), False),
        ("if x:\n    def f(): raise NotImplementedError\n", {"f"}, True),
        ("def f():\n" + OPEN + "if __name__ == '__main__':\n    def g(): return 1\n", {"f"}, True),
        # a name may be bound without a definition
        ("LIMIT = 3\nPair = tuple[int, int]\n__all__ = ['f']\nx: int\ndef f():\n" + OPEN, {"f"}, True),
        ("def f():\n" + OPEN + "g = torch.compile(h)\n", {"f"}, False),
        ("def f():\n" + OPEN + "g: Any = lambda x: x\n", {"f"}, False),
        ("def f():\n" + OPEN + "f = _Function.apply\n", set(), False),
        ("def f():\n" + OPEN + "class _A: ...\nA = _A\n", {"f"}, False),
    ],
)  # fmt: skip
def test_a_file_is_unstarted_while_all_that_is_public_is_open(text, names, whole):
    assert unstarted_names(text) == names
    assert unstarted(text) is whole


def test_given_code_starts_nothing():
    text = source("""
        # given: the configuration
        class Config:
            def size(self):
                return 3
        def helper():
            return 1
        width = 3
        # end given

        class Layer:
            # given
            def size(self):
                return 3
            # end given
            def forward(self):
                raise NotImplementedError

        def f():
            raise NotImplementedError
    """)

    assert unstarted_names(text) == {"Layer", "f"} and unstarted(text)


def test_a_broken_marker_protects_nothing():
    text = "# given\ndef g():\n    return 1\ndef f():\n" + OPEN

    assert unstarted_names(text) == {"f"} and not unstarted(text)


def test_nothing_is_imported():
    code = "import sys, grading.course.source, grading.author.stubs; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- what is not Python -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = 1\ny = foo(\n", "week1/x.py, line 2, column 8: '(' was never closed: y = foo("),
        ("def f():\nreturn 1\n", "week1/x.py, line 2, column 1: expected an indented block"),
        ("def f():\n    x = 1\n\ty = 2\n", "week1/x.py, line 3"),
        ("x = 1\r\ny = = 2\r\n", "week1/x.py, line 2, column 5: invalid syntax: y = = 2"),
        ("이름 = = 2\n", "week1/x.py, line 1, column 6: invalid syntax: 이름 = = 2"),
        ("\n    return 1\n", "week1/x.py, line 2"),
        ("return 1\n", "week1/x.py, line 1, column 1: 'return' outside function: return 1"),
        ("def f(x, x): ...\n", "week1/x.py, line 1"),
        ("x = 'abc\n", "week1/x.py, line 1, column 5: unterminated string literal"),
        ("x = '''abc\n", "week1/x.py, line 1"),
        ("x = 1\ny = '\0'\n", "week1/x.py, line 2: holds a null byte: save it as UTF-8"),
        ("x = '\ud800'\n", "week1/x.py: 'utf-8' codec can't encode"),
        ("x = " + "-" * 100_000 + "1\n", "week1/x.py"),
        ("y = foo(" + " " * 500 + "'" + "x" * 1000 + "'\n", "week1/x.py, line 1, column 8: '(' was never closed"),
    ],
)
def test_a_syntax_error_is_one_short_line_that_names_the_place(text, problem):
    found = syntax_problem(text, "week1/x.py")

    assert found is not None and found.startswith(problem)
    assert len(found) <= 200 and "\n" not in found
    for ask in (unstarted, unstarted_names):
        with pytest.raises(SourceError) as caught:
            ask(text, "week1/x.py")
        assert str(caught.value) == found
    with pytest.raises(SourceError):
        forbidden_imports(text, ("grading",))


def test_an_error_carries_its_parts():
    with pytest.raises(SourceError) as caught:
        parse("x = 1\n  y = foo)  # 주석\n", "week1/x.py")

    error = caught.value
    assert (error.filename, error.line, error.text) == ("week1/x.py", 2, "y = foo)  # 주석")
    assert error.reason in str(error)


@pytest.mark.parametrize(
    "text",
    ["", "x = 1", "\ufeffx = 1\r\n", "def f():\r\n\treturn '한'\r\n", "x = 1\ry = 2\r", "x = '\\d'\n", "await_ = 1"],
)
def test_what_python_accepts_is_no_problem(text, recwarn):
    assert syntax_problem(text, "x.py") is None
    assert not recwarn.list


@given(st.text(alphabet="def f(x):\n\t =\"'#\\{}[],1\r\x00é가\ufeff", max_size=40))
def test_any_text_is_either_read_or_refused_in_one_line(text):
    problem = syntax_problem(text, "x.py")

    if problem is None:
        unstarted(text)
    else:
        assert problem.startswith("x.py") and "\n" not in problem and len(problem) <= 200
