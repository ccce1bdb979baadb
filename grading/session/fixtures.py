"""The fixtures of graded tests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from grading.ask import marks
from grading.history import recording
from grading.session.items import FIGURES, PARTS, SUBMISSION, Parts, record_id
from grading.session.session import session_of

if TYPE_CHECKING:
    from grading.ask.draw import Draw
    from grading.ask.llm import ScriptedModel
    from grading.ask.submission import Submission


@pytest.fixture
def submission(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Submission:
    """The exercise under test: `call`, `make` and `run` send it requests and return the outcome."""
    session = session_of(pytestconfig)
    made = request.node.stash[SUBMISSION] = session.submission(request.node)
    return made


@pytest.fixture
def draw(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Draw:
    """Random inputs from the grading seed, such as `draw.normal(2, 3, dtype="float16")`."""
    return session_of(pytestconfig).draw(request.node)


@pytest.fixture
def llm(submission: Submission, pytestconfig: pytest.Config) -> ScriptedModel:
    """A language model that follows a script and records the submission's requests: see `grading.ask.llm`."""
    from grading.ask.llm import RealModel, ScriptedModel

    options = session_of(pytestconfig).options
    if options.llm_url and options.llm_model:
        submission.model = RealModel(options.llm_url, options.llm_model, options.llm_key)
    else:
        submission.model = ScriptedModel()
    return submission.model


@pytest.fixture
def gpu(pytestconfig: pytest.Config) -> None:
    """For a test that needs a GPU: without one its points are not in the total."""
    if session_of(pytestconfig).options.device == "cpu":
        pytest.skip("needs a GPU: --device cuda")


@pytest.fixture
def part(request: pytest.FixtureRequest) -> Callable[[str], contextlib.AbstractContextManager[None]]:
    """Partial credit: `with part("gradients"): …` earns the points of that part."""
    parts = request.node.stash[PARTS] = Parts(set(marks.points_of(request.node)[1]))
    return parts


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The measurements of a test, for its record: `figures["flops"] = got.counts["flops"]`."""
    return request.node.stash.setdefault(FIGURES, {})


@pytest.fixture
def speed(
    request: pytest.FixtureRequest, submission: Submission, benchmark: Any, figures: dict[str, Any]
) -> Callable[[Callable[..., Any]], None]:
    """Judges what `at_least` requires: `speed(lambda submission, draw: submission.call("f", draw.normal(64, 64)))`.

    The function asks a submission for one call, with inputs from `draw`. It is called once for each timed call, for
    the submission and for the reference. A timed call should take at least a few milliseconds.
    """
    from grading.judge.speed import Contest, judge_speed

    item, session = request.node, session_of(request.config)
    limit = marks.at_least_of(item)
    if limit is None:
        raise pytest.UsageError(f"{item.nodeid}: the fixture speed needs the mark at_least")
    parts = Parts(set(marks.points_of(item)[1]) or set(limit.texts))
    if len(limit.texts) > 1:
        item.stash[PARTS] = parts

    def judge(ask: Callable[..., Any]) -> None:
        parts.entered |= parts.names
        contest = Contest.arrange(submission, session.course, limit, session.options.device, ask)
        ratios = contest.run(ask)
        figures.update(contest.figures(ratios, ask))
        recording.record_speed(benchmark, item, record_id(item), ratios, limit, figures)
        judge_speed(contest, ask, ratios, parts.earned.add)

    return judge
