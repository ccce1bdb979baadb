"""The programs that `python -m benchmarks.frameworks` measures can run."""

from __future__ import annotations

import importlib.util

import pytest

from benchmarks.frameworks.__main__ import ANSWER, FRAMEWORKS, ask


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_program_answers(framework):
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed: pip install -e '.[{framework}]'")
    outcome, requests = ask(framework, "all goes well")
    assert (outcome.get("answer"), outcome["lookups"]) == (ANSWER, 1), outcome
    assert {request.model for request in requests} == {"scripted"}
