"""All reports of a run agree, each in the format that its reader has published."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from grading.data.record import VERDICTS, Grade, Part, Record, Tally, show_points
from grading.reports import (
    ReportError,
    classroom,
    exercism,
    grade_json,
    gradescope,
    next_step,
    page,
    points_table,
    read_grade,
    summary,
    terminal,
    write_reports,
)
from grading.reports.causes import causes
from grading.reports.text import cut, fence, fitted, markdown, one_line, plain, to_json
from grading.reports.wording import state

# --- the published formats -------------------------------------------------------------------------------------------


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    """The schema of an object with these fields and no others."""
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


STRING, NUMBER, INTEGER = {"type": "string"}, {"type": "number"}, {"type": "integer"}

# Gradescope's documentation for autograders, page "Autograder Specifications", sections "Output format", "Test case
# status", "Controlling test case visibility" and "Output string formatting".
VISIBILITY = {"enum": ["hidden", "after_due_date", "after_published", "visible"]}
FORMAT = {"enum": ["text", "html", "simple_format", "md", "ansi"]}
GRADESCOPE_SCHEMA = closed(
    ["score", "tests"],
    score=NUMBER,
    execution_time=NUMBER,
    output=STRING,
    output_format=FORMAT,
    test_output_format=FORMAT,
    test_name_format=FORMAT,
    visibility=VISIBILITY,
    stdout_visibility=VISIBILITY,
    extra_data={"type": "object"},
    leaderboard={"type": "array"},
    tests={
        "type": "array",
        "items": closed(
            ["name", "status"],
            score=NUMBER,
            max_score=NUMBER,
            status={"enum": ["passed", "failed"]},
            name=STRING,
            name_format=FORMAT,
            number=STRING,
            output=STRING,
            output_format=FORMAT,
            tags={"type": "array", "items": STRING},
            visibility=VISIBILITY,
            extra_data={"type": "object"},
        ),
    },
)

# The format that classroom-resources/autograding-command-grader and autograding-io-grader write (src/main.js) and
# autograding-grading-reporter reads (src/main.js, src/console-results.js, src/notify-classroom.js). It adds up `score`,
# which must therefore be a number in every test.
CLASSROOM_STATUS = {"enum": ["pass", "fail", "error"]}
CLASSROOM_SCHEMA = closed(
    ["version", "status", "max_score", "tests"],
    version={"const": 1},
    status=CLASSROOM_STATUS,
    max_score=NUMBER,
    tests={
        "type": "array",
        "items": closed(
            ["name", "status", "score", "message", "test_code", "filename", "line_no", "duration"],
            name=STRING,
            status=CLASSROOM_STATUS,
            score=NUMBER,
            message={"type": ["string", "null"]},
            test_code=STRING,
            filename=STRING,
            line_no=INTEGER,
            duration=NUMBER,
        ),
    },
)

# Exercism's documentation for contributors, page "The Test Runner Interface", section "Output format". Texts have at
# most 65,535 bytes, the output 500 characters; a message is required if nothing ran and not allowed otherwise.
EXERCISM_STATUS = {"enum": ["pass", "fail", "error"]}
EXERCISM_SCHEMA = {
    **closed(
        ["version", "status", "tests"],
        version={"const": 3},
        status=EXERCISM_STATUS,
        message={"type": ["string", "null"], "maxLength": 65_535 // 4},
        tests={
            "type": "array",
            "items": closed(
                ["name", "status", "test_code"],
                name=STRING,
                status=EXERCISM_STATUS,
                message={"type": ["string", "null"], "maxLength": 65_535 // 4},
                output={"type": ["string", "null"], "maxLength": 500},
                test_code=STRING,
                task_id={"type": "integer", "minimum": 1},
            ),
        },
    ),
    "if": {"properties": {"status": {"const": "error"}}},
    "then": {"required": ["message"], "properties": {"message": {"type": "string", "minLength": 1}}},
    "else": {"properties": {"message": {"type": "null"}}},
}

SCHEMAS: dict[str, tuple[ModuleType, dict[str, Any]]] = {
    "grade.json": (grade_json, json.loads(grade_json.SCHEMA.read_text(encoding="utf-8"))),
    "gradescope/results.json": (gradescope, GRADESCOPE_SCHEMA),
    "classroom/results.json": (classroom, CLASSROOM_SCHEMA),
    "exercism/results.json": (exercism, EXERCISM_SCHEMA),
}


def loads(text: str) -> Any:
    """JSON by the standard: NaN and the infinities are rejected."""

    def refuse(constant: str) -> None:
        raise ValueError(f"JSON has no {constant}")

    return json.loads(text, parse_constant=refuse)


def validated(name: str, grade: Grade) -> Any:
    module, schema = SCHEMAS[name]
    data = loads(module.render(grade))
    jsonschema.validate(data, schema)
    return data


# --- reading the points back -----------------------------------------------------------------------------------------

# Points by name: "total", an exercise, "2.1" for the first test of the second exercise, "lost 1" for the first failed
# test of all. A test that is not counted has None.
Points = tuple[float, float] | None
Facts = dict[str, Points]


def facts(grade: Grade, kinds: str) -> Facts:
    """The points that a report with these kinds must contain: total, exercises, tests, lost."""
    found: Facts = {}
    if "total" in kinds:
        found["total"] = grade.points, grade.max_points
    for number, (exercise, tally) in enumerate(grade.by_exercise().items(), 1):
        if "exercises" in kinds:
            found[exercise] = tally.points, tally.max_points
        for index, record in enumerate(tally.records, 1):
            if "tests" in kinds:
                found[f"{number}.{index}"] = (record.points, record.max_points) if record.counted else None
        for cause in causes(tally) if "lost" in kinds else ():
            for record in cause.failures:  # a file that does not load comes first, wherever its tests are
                found[f"lost {1 + sum(key.startswith('lost') for key in found)}"] = record.points, record.max_points
    return found


def numbered(exercises: list[str], points: list[Points]) -> Facts:
    """Tests by number, from the exercise of each."""
    order, seen, found = list(dict.fromkeys(exercises)), dict.fromkeys(exercises, 0), {}
    for exercise, earned in zip(exercises, points, strict=True):
        seen[exercise] += 1
        found[f"{order.index(exercise) + 1}.{seen[exercise]}"] = earned
    return found


def read_grade_json(text: str) -> Facts:
    data = loads(text)
    found: Facts = {"total": (data["total"]["points"], data["total"]["max_points"])}
    found |= {name: (total["points"], total["max_points"]) for name, total in data["exercises"].items()}
    records = [Record.from_dict(record) for record in data["records"]]
    earned = [(record.points, record.max_points) if record.counted else None for record in records]
    return found | numbered([record.exercise for record in records], earned)


def read_gradescope(text: str) -> Facts:
    data = loads(text)
    tests = {test["number"]: (test["score"], test["max_score"]) if "score" in test else None for test in data["tests"]}
    assert sum(points[0] for points in tests.values() if points) == pytest.approx(data["score"], abs=1e-6)
    return {"total": (data["score"], data["extra_data"]["max_points"]), **tests}


def read_classroom(text: str) -> Facts:
    data = loads(text)
    return {"total": (sum(test["score"] for test in data["tests"]), data["max_score"])}


def read_classroom_base64(text: str) -> Facts:
    return read_classroom(base64.b64decode(text, validate=True).decode())


def read_exercism(text: str) -> Facts:
    tests = loads(text)["tests"]
    earned = [pair(re.search(r"\((\S+) / (\S+) points\)$", test["name"])) for test in tests]
    return numbered([str(test["task_id"]) for test in tests], earned)


def read_summary(text: str) -> Facts:
    found: Facts = {}
    closing = ""
    for line in text.splitlines():
        if closing:
            closing = "" if line == closing else closing
        elif line.startswith("```"):
            closing = line.removesuffix("text")
        elif cells := re.fullmatch(r"\| (.+) \| (?:\*\*)?(\S+) / (\S+?)(?:\*\*)? \| .*\|", line):
            name = re.sub(r"\\(.)", r"\1", cells[1])
            found["total" if name == "**Total**" else name] = float(cells[2]), float(cells[3])
        elif line.startswith("**"):
            lost = 1 + sum(key.startswith("lost") for key in found)
            found[f"lost {lost}"] = pair(re.search(r"\((\S+) / (\S+)\)$", line))
    return found or {"total": (0, 0)}  # a run without a record has no table


class Page(HTMLParser):
    """The points, the text and the tags of a page; fails if a tag is not closed."""

    VOID = ("meta",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: Facts = {}
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.values: list[float] = []
        self.link = ""
        self.test = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("h1", "tr", "summary"):
            self.values = []
        if tag == "a":
            self.link = ""
        if tag == "data":
            self.values.append(float(dict(attributes)["value"] or "nan"))
        if tag == "details":
            place = re.fullmatch(r"test-(\d+)-(\d+)", dict(attributes).get("id") or "")
            self.test = f"{place[1]}.{place[2]}" if place else ""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        points = (self.values[0], self.values[1]) if len(self.values) == 2 else None
        if tag == "h1":
            self.found["total"] = points
        if tag == "tr" and self.values:
            self.found[self.link] = points
        if tag == "summary" and self.test:  # an exercise has a summary too
            self.found[self.test] = points

    def handle_data(self, data: str) -> None:
        self.text += data
        if "a" in self.open:
            self.link += data


def read_page(text: str) -> Facts:
    return Page(text).found


def read_table(text: str) -> Facts:
    found: Facts = {}
    week = ""
    for line in text.splitlines():
        if row := re.match(r"(\s*)(\S+)\s+(\S+)/(\S+)\s+\[[#.]+\]", line):
            found[f"{week}/{row[2]}" if row[1] else row[2]] = float(row[3]), float(row[4])
        else:
            week = line
    return found


def pair(match: re.Match[str] | None) -> Points:
    return (float(match[1]), float(match[2])) if match else None


def render_table(grade: Grade) -> str:
    return "\n".join(points_table(grade, 200))


# How each report is rendered and read back, which points it contains, and how exactly: text has two decimals.
REPORTS: dict[str, tuple[Callable[[Grade], str], Callable[[str], Facts], str, float]] = {
    "grade.json": (grade_json.render, read_grade_json, "total exercises tests", 1e-6),
    "gradescope/results.json": (gradescope.render, read_gradescope, "total tests", 1e-6),
    "classroom/results.json": (classroom.render, read_classroom, "total", 1e-5),
    "classroom/results.base64": (classroom.render_base64, read_classroom_base64, "total", 1e-5),
    "exercism/results.json": (exercism.render, read_exercism, "tests", 0.0051),
    "summary.md": (summary.render, read_summary, "total exercises lost", 0.0051),
    "index.html": (page.render, read_page, "total exercises tests", 1e-6),
    "terminal": (render_table, read_table, "total exercises", 0.0051),
}
FILES = [name for name in REPORTS if name != "terminal"]


def check_agreement(name: str, text: str, grade: Grade) -> None:
    """Fails unless the report agrees with the records about every point."""
    _, read, kinds, tolerance = REPORTS[name]
    found, wanted = read(text), facts(grade, kinds)
    assert found.keys() == wanted.keys(), name
    for key, points in wanted.items():
        assert found[key] == (points and pytest.approx(points, abs=tolerance)), (name, key)


# --- grades ----------------------------------------------------------------------------------------------------------

examples = settings(max_examples=50, deadline=None)

AWKWARD = [
    "week1/a::b[c/d]",
    "```\n</details><script>alert(1)</script>",
    "| a | b |\r\n**(1 / 2)**",
    "\x1b[31mred\x1b[0m \x1b]8;;x\x07link \x00\x07\x7f\x9b",
    "가중치는 행마다 1로 더해진다 🙂",
    "&lt;b&gt; \\ $x$ `code` ~~no~~ [a](b) \u202eright to left",
]
texts = st.sampled_from(AWKWARD) | st.text(max_size=20)
points = st.sampled_from([0, 0.25, 1 / 3, 1, 1.5, 2, 10])


@st.composite
def records(draw: st.DrawFn) -> Record:
    exercise = draw(st.sampled_from(["week1/self_attention", "week1/moe", "week2/tiled_attention", "week2/에이전트"]))
    verdict = draw(st.sampled_from(VERDICTS))
    max_points = draw(points)
    earned = {"passed": 1, "not started": 0}.get(verdict, draw(st.sampled_from([0, 0.5, 1]))) * max_points
    return Record(
        f"{exercise}::{draw(texts)}",
        title=draw(texts),
        verdict=verdict,
        points=earned,
        max_points=max_points,
        seconds=draw(st.floats(0, 1000)),
        message="" if verdict == "passed" else draw(texts),
        reason="" if verdict == "passed" else draw(texts | st.just("needs a GPU")),
        mistakes=tuple(draw(st.lists(texts, max_size=2))),
        cause=draw(st.sampled_from(["", f"{exercise}.py", "f: wrong shape"])) if verdict == "failed" else "",
        size=draw(st.integers(0, 999)),
        handout=draw(st.none() | texts),
        parts=draw(st.dictionaries(texts, st.just(Part(0.5, 1)), max_size=2)),
        figures=draw(st.dictionaries(texts, st.floats(allow_nan=False) | st.integers() | texts, max_size=3)),
        output=draw(texts),
        test_code=draw(texts),
        line=draw(st.none() | st.integers(1, 999)),
    )


@st.composite
def grades(draw: st.DrawFn) -> Grade:
    drawn = draw(st.lists(records(), max_size=8))
    ordered = sorted(drawn, key=lambda record: record.exercise)
    environment, identity = {"python": draw(texts)}, {"date": draw(texts), "commit": draw(texts)}
    return Grade(tuple(ordered), draw(texts), draw(st.integers(0, 99)), environment, identity, draw(texts))


def record(
    verdict: Any, points: float | None = None, max_points: float = 2, exercise: str = "week1/moe", **fields: Any
) -> Record:
    title = fields.pop("title", f"a test that is {verdict}")
    if points is None:
        points = max_points if verdict == "passed" else 0
    return Record(f"{exercise}::test", title, verdict, points, max_points, **fields)


# One of everything.
SAMPLE = Grade(
    (
        Record(
            "week1/self_attention::test_rows_sum_to_one",
            "rows of weights sum to one",
            "passed",
            2,
            2,
            seconds=0.25,
            handout="exercises/week1/self_attention.md#softmax",
            figures={"largest error": 1.5e-7},
            test_code="def test_rows_sum_to_one(submission):\n    ...\n",
            line=12,
        ),
        Record(
            "week1/self_attention::test_scale[float16]",
            "scale divides the scores [float16]",
            "failed",
            1,
            2,
            seconds=0.5,
            message="where   112 of 336 numbers differ, the largest at [0, 1, 3, 4]\nlikely  the scale is missing\n```",
            reason="the output is not softmax(q kᵀ / √d) v",
            mistakes=("scale-missing",),
            handout="exercises/week1/self_attention.md#scaling",
            parts={"output": Part(0, 1), "gradients": Part(1, 1)},
            figures={"error / allowed": math.inf, "launches": 3},
            output="scores | \x1b[31m<nan>\x1b[0m\n",
            test_code="def test_scale(submission, dtype):\n    ...\n",
            line=20,
        ),
        Record(
            "week1/self_attention::test_speed",
            "is as fast on a GPU as PyTorch",
            "not gradable here",
            0,
            4,
            message="read    exercises/week1/self_attention.md#speed",
            reason="needs a GPU",
        ),
        Record(
            "week1/moe::test_routing",
            "the best experts come first",
            "not started",
            0,
            3,
            reason="not started",
            handout="exercises/week1/moe.md#routing",
        ),
        Record("week2/varlen::test_packed", "packed rows <기본>", "not offered", 0, 5, reason="torch offers no varlen"),
        Record("week2/agents::test_time", "time is linear", "inconclusive", 0, 1, reason="too noisy to measure"),
        Record(
            "week2/agents::test_tools", "tools are called in order", "error", 0, 2, reason="the grader broke: OSError"
        ),
        Record("week2/agents::test_stops", "an empty plan ends the run", "passed", 0, 0),
    ),
    implementation="exercises",
    seed=7,
    environment={"python": "3.11.7", "torch": "2.13.0"},
    identity={"date": "2026-03-02 14:05 UTC", "course version": "0.1.0", "commit": "4c93f53d06e3b9f6a80cf38ad2ec"},
)


# --- agreement -------------------------------------------------------------------------------------------------------


@given(grade=grades())
@examples
def test_every_report_gives_the_points_of_the_records(grade: Grade) -> None:
    for name, (render, *_) in REPORTS.items():
        check_agreement(name, render(grade), grade)


@given(grade=grades())
@examples
def test_every_report_has_the_published_form(grade: Grade) -> None:
    for name in SCHEMAS:
        validated(name, grade)


@given(grade=grades())
@examples
def test_classroom_gives_each_test_its_points(grade: Grade) -> None:
    scores = [test["score"] for test in loads(classroom.render(grade))["tests"]]
    assert scores == ([record.points if record.counted else 0 for record in grade.records] or [0])


def wrong(grade: Grade, fault: str) -> Grade:
    """The grade as a faulty renderer would see it."""

    def seen(it: Record) -> Record | None:
        if fault == "a failed test left out" and it.verdict == "failed":
            return None
        if fault == "partial credit lost" and it.verdict == "failed":
            return replace(it, points=0)
        if fault == "an uncounted test counted" and it.verdict == "not gradable here":
            return replace(it, verdict="failed")
        return it

    return replace(grade, records=tuple(filter(None, map(seen, grade.records))))


@pytest.mark.parametrize("fault", ["a failed test left out", "partial credit lost", "an uncounted test counted"])
@pytest.mark.parametrize("name", REPORTS)
def test_a_report_with_wrong_points_disagrees(name: str, fault: str) -> None:
    render = REPORTS[name][0]
    with pytest.raises(AssertionError):
        check_agreement(name, render(wrong(SAMPLE, fault)), SAMPLE)


@pytest.mark.parametrize(
    ("module", "faulty"),
    [
        (grade_json, {"grade.json"}),
        (gradescope, {"gradescope/results.json"}),
        (classroom, {"classroom/results.json", "classroom/results.base64"}),
        (exercism, {"exercism/results.json"}),
        (summary, {"summary.md"}),
        (page, {"index.html"}),
    ],
)
def test_a_renderer_that_drops_points_is_caught(
    module: ModuleType, faulty: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render = module.render
    faulty_render = lambda grade, **options: render(wrong(grade, "partial credit lost"), **options)  # noqa: E731
    monkeypatch.setattr(module, "render", faulty_render)
    write_reports(SAMPLE, tmp_path)
    disagreeing = set()
    for name in FILES:
        try:
            check_agreement(name, (tmp_path / name).read_text(encoding="utf-8"), SAMPLE)
        except AssertionError:
            disagreeing.add(name)
    assert disagreeing == faulty


# --- the sample as it is ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in REPORTS if not name.endswith(".base64")])
def test_the_sample_is_reported_as_before(name: str, snapshot: SnapshotAssertion) -> None:
    text = REPORTS[name][0](SAMPLE)
    assert re.sub(r"(?s)<style>.*</style>", "<style></style>", text) == snapshot


# --- what each verdict becomes ---------------------------------------------------------------------------------------

UNGRADED = ["not offered", "not gradable here", "inconclusive"]


@pytest.mark.parametrize("points", [0, 2])
@pytest.mark.parametrize(
    ("verdict", "gradescope_status", "status"),
    [
        ("passed", "passed", "pass"),
        ("failed", "failed", "fail"),
        ("not started", "failed", "fail"),
        *((verdict, "passed", "pass") for verdict in UNGRADED),
        ("error", "failed", "error"),
    ],
)
def test_a_verdict_has_its_status_whatever_the_test_is_worth(
    verdict: Any, gradescope_status: str, status: str, points: float
) -> None:
    grade = Grade((record(verdict, points if verdict == "passed" else 0, points, reason="why"),))
    assert validated("gradescope/results.json", grade)["tests"][0]["status"] == gradescope_status
    for name in ("classroom/results.json", "exercism/results.json"):
        data = validated(name, grade)
        assert (data["status"], data["tests"][0]["status"]) == (status, status)


def test_what_is_not_started_scores_nothing() -> None:
    data = validated("gradescope/results.json", Grade((record("not started"),)))
    assert (data["score"], data["tests"][0]["score"], data["tests"][0]["max_score"]) == (0, 0, 2)


@pytest.mark.parametrize("verdict", UNGRADED)
def test_what_says_nothing_about_the_submission_is_out_of_the_total_and_said(verdict: Any) -> None:
    grade = Grade((record("passed", 1, 1), record(verdict, max_points=4, reason="the reason of it")))
    for name in ("gradescope/results.json", "classroom/results.json", "exercism/results.json"):
        label = validated(name, grade)["tests"][1]["name"]
        assert f"({verdict}: the reason of it; 4 points not counted)" in label, name
    for text in (summary.render(grade), Page(page.render(grade)).text):
        assert verdict in text
        assert "the reason of it" in text
    assert points_table(grade)[-1] == f"not counted: 4 points {verdict}"
    assert state(grade) == f"done, 4 points {verdict}"
    assert (grade.points, grade.max_points) == (1, 1)


def test_an_error_is_the_graders_fault_wherever_it_is_told() -> None:
    broken = record("error", title="it breaks", reason="the grader broke: OSError")
    grade = Grade((record("passed", 2), broken))
    for name in ("gradescope/results.json", "classroom/results.json", "exercism/results.json"):
        test = validated(name, grade)["tests"][1]
        assert test["name"].endswith("it breaks (grader error; 2 points not counted)")
        assert "The grader itself broke here, not your code" in (test.get("output") or test["message"])
    assert "1 grader error: not your fault" in loads(gradescope.render(grade))["output"]
    assert "### 1 grader error: not the submission's fault" in summary.render(grade)
    assert "The grader itself broke here, not your code" in Page(page.render(grade)).text
    assert "1 grader error" in points_table(grade)[-1]
    assert "not your fault" in (next_step(grade) or "")


def test_partial_credit_is_told_by_its_parts() -> None:
    for name, field in [("gradescope/results.json", "output"), ("exercism/results.json", "message")]:
        test = validated(name, SAMPLE)["tests"][1]
        assert "Points: output 0/1, gradients 1/1" in test[field]


def test_a_test_is_explained_by_its_reason_and_its_message() -> None:
    failed = record("failed", reason="the output is wrong", message="where   row 3")
    for name, field in [("gradescope/results.json", "output"), ("exercism/results.json", "message")]:
        assert validated(name, Grade((failed,)))["tests"][0][field] == "the output is wrong\n\nwhere   row 3"


def test_exercism_knows_an_exercise_as_a_task() -> None:
    tests = validated("exercism/results.json", SAMPLE)["tests"]
    assert [test["task_id"] for test in tests] == [1, 1, 1, 2, 3, 4, 4, 4]
    assert tests[0]["test_code"] == SAMPLE.records[0].test_code


def test_exercism_is_an_error_only_where_every_test_is_one() -> None:
    assert validated("exercism/results.json", Grade((record("error"), record("passed", 2))))["status"] == "fail"
    message = validated("exercism/results.json", Grade((record("error", reason="OSError"),)))["message"]
    assert "The grader itself broke" in message
    assert "OSError" in message


# --- awkward runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "said"), [("", "no tests were run"), ("--impl x: no such <tree>", "no such <tree>")]
)
def test_a_run_without_a_record_says_why(problem: str, said: str) -> None:
    grade = Grade((), problem=problem)
    assert said in validated("gradescope/results.json", grade)["output"]
    assert said in validated("exercism/results.json", grade)["message"]
    assert said in validated("classroom/results.json", grade)["tests"][0]["message"]
    assert validated("classroom/results.json", grade)["status"] == "error"
    assert validated("grade.json", grade)["problem"] == problem
    assert said in summary.render(grade)
    assert said in Page(page.render(grade)).text
    assert next_step(grade) is None
    assert points_table(grade) == ["total  0/0  [........]"]


def strings(data: Any) -> list[str]:
    if isinstance(data, dict):
        return [text for value in data.values() for text in strings(value)]
    if isinstance(data, list):
        return [text for value in data for text in strings(value)]
    return [data] if isinstance(data, str) else []


CONTROLS = "\x1b[31m\x1b[2J\x1b]0;window\x07 \x00\b\x7f\x9b31m \u202e\u2028 \udc80 \x1b\r\nnext"


def test_control_characters_never_reach_a_reader() -> None:
    grade = Grade(
        (record("failed", title=CONTROLS, message=CONTROLS, reason=CONTROLS, output=CONTROLS, mistakes=(CONTROLS,)),)
    )
    shown = [summary.render(grade), page.render(grade), *points_table(grade), next_step(grade) or ""]
    for name in ("gradescope/results.json", "classroom/results.json", "exercism/results.json"):
        for test in validated(name, grade)["tests"]:
            shown += strings({key: value for key, value in test.items() if key != "extra_data"})
    for text in shown:
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800-\udfff]", text)
        assert "window" not in text  # its title, set by an escape
    assert any("next" in text for text in shown)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one\r\ntwo\rthree\tfour", "one\ntwo\nthree\tfour"),
        ("\x1b[1;31mred\x1b[0m \x1b(Bplain\x1bM", "red plain"),
        ("\x1b]8;;there\x1b\\link\x1b]8;;\x07", "link"),
        ("\x1b]never closed", "never closed"),
        ("bell\x07 delete\x7f", "bell␇ delete␡"),
        ("가중치 🙂 é", "가중치 🙂 é"),
        ("wrong\n::error file=x::passed", "wrong\n: :error file=x::passed"),
        ("\t##[error]no\n  ::endgroup::", "\t# #[error]no\n  : :endgroup::"),
        ("##vso[task.complete]\n##teamcity[x]", "# #vso[task.complete]\n# #teamcity[x]"),
        ("section_start:1:x\nsections", "s ection_start:1:x\nsections"),
        ("week1/a::test_b, x[::2]\n# a heading\n## another", "week1/a::test_b, x[::2]\n# a heading\n## another"),
        ("a\u200fb\u200bc\u2066d", "a\ufffdb\ufffdc\ufffdd"),
    ],
)
def test_plain_text_is_what_a_terminal_would_have_shown(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize("hostile", AWKWARD)
def test_a_page_shows_text_and_runs_none_of_it(hostile: str) -> None:
    def shown(text: str) -> Page:
        names = ["title", "message", "reason", "handout", "output", "test_code"]
        fields: dict[str, Any] = {**dict.fromkeys(names, text), "mistakes": (text,)}
        failed = record("failed", exercise=f"week1/{text.partition('::')[0]}", figures={text: text}, **fields)
        return Page(page.render(Grade((failed,), text, environment={text: text})))

    seen, harmless = shown(hostile), shown("x")
    assert [tag for tag, _ in seen.tags] == [tag for tag, _ in harmless.tags]
    assert seen.text.count(plain(hostile).strip("\n")) >= 2  # the message and the output, line by line
    assert seen.text.count(one_line(hostile)) >= 2


def test_a_page_needs_nothing_else() -> None:
    seen = Page(page.render(SAMPLE))
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in seen.tags}
    assert not [key for _, attributes in seen.tags for key in attributes if key == "src" or key.startswith("on")]
    assert all((attributes["href"] or "").startswith("#") for tag, attributes in seen.tags if tag == "a")
    assert "url(" not in page.STYLE.read_text(encoding="utf-8")
    targets = {attributes.get("id") for _, attributes in seen.tags}
    assert all((attributes["href"] or "")[1:] in targets for tag, attributes in seen.tags if tag == "a")


def test_a_page_says_what_was_graded_when_and_at_which_commit() -> None:
    seen = Page(page.render(replace(SAMPLE, implementation="Ada's")))
    assert "Ada's: 3 of 7 points" in seen.text
    assert seen.text.count("Ada's") == 3  # the browser's tab, the head, the foot
    for value in SAMPLE.identity.values():
        assert value in seen.text
    assert seen.text.count("Not counted:") == 1


def test_a_page_links_to_the_handouts_from_where_it_lies(tmp_path: Path) -> None:
    handout = tmp_path / "the course/exercises/week1/b.md"
    handout.parent.mkdir(parents=True)
    handout.touch()
    folder = tmp_path / "reports/ada"
    write_reports(Grade((FAILED,)), folder, tmp_path / "the course")
    seen = Page((folder / "index.html").read_text("utf-8"))
    links = {attributes["href"] for tag, attributes in seen.tags if tag == "a"} - {"#exercise-1"}
    assert links == {"../../the%20course/exercises/week1/b.md#scaling"}
    (link,) = links
    assert (folder / unquote(str(link).partition("#")[0])).resolve() == handout


def test_a_page_shows_failures_first_and_one_of_each_cause_open() -> None:
    outcomes = [
        record("passed", title="right"),
        record("not started", title="open"),
        record("failed", title="large", cause="x", size=9),
        record("failed", title="small", cause="x", size=1),
        record("error", title="broken"),
    ]
    text = page.render(Grade(tuple(outcomes)))
    titles = re.findall(r'<span class="title">(\w+)</span>', text)
    assert titles == ["small", "large", "broken", "open", "right"]
    unfolded = re.findall(r'<details class="test \w+" id="([^"]+)" open>', text)
    assert unfolded == ["test-1-4", "test-1-5"]
    assert "1 more test fails in the same way, 2 points:" in text


@given(message=st.lists(st.sampled_from(["```", "`", "~~~", "text", "\n", " ", "\x1b[0m"]), max_size=12).map("".join))
@examples
def test_nothing_in_a_message_closes_its_code_block(message: str) -> None:
    opening, *inside, closing = fence(message).split("\n")
    assert opening == f"{closing}text"
    assert "\n".join(inside) == plain(message)
    assert not [line for line in inside if re.fullmatch(rf" {{0,3}}`{{{len(closing)},}}\s*", line)]


@pytest.mark.parametrize("hostile", AWKWARD)
def test_a_summary_has_no_tags_but_its_own(hostile: str) -> None:
    fields: dict[str, Any] = dict.fromkeys(["title", "message", "reason"], hostile)
    outcomes = (record(verdict, exercise=hostile.partition("::")[0], **fields) for verdict in VERDICTS)
    text = summary.render(Grade(tuple(outcomes), hostile, environment={hostile: hostile}))
    outside = re.sub(r"(?ms)^(`{3,})text$.*?^\1$", "", text)
    assert set(re.findall(r"(?<!\\)<[^>]*>", outside)) <= {"<details>", "<summary>", "</summary>", "</details>"}


@pytest.mark.parametrize("hostile", AWKWARD)
def test_a_cell_of_a_table_stays_a_cell(hostile: str) -> None:
    cell = markdown(hostile)
    assert not re.search(r"(?<!\\)(?:\\\\)*[|<>`*\[\]]", cell)
    assert "\n" not in cell
    assert re.sub(r"\\([\\`*_\[\]<>|~&$])", r"\1", cell) == one_line(hostile)


def test_a_megabyte_is_cut_where_the_format_has_a_limit() -> None:
    grade = Grade((record("failed", message="가" * 1_000_000, output="x" * 1_000_000),))
    test = validated("exercism/results.json", grade)["tests"][0]
    assert len(test["message"].encode()) <= 65_535
    assert test["message"].endswith("[cut: too long to show here]")
    assert test["output"].endswith("Output was truncated. Please limit to 500 chars")
    assert len(summary.render(grade).encode()) <= 2**20
    assert "[cut: too long to show here]" in summary.render(grade)
    assert len(f"RESULTS={classroom.render_base64(grade)}") < 128 * 1024
    assert "가" * 1_000_000 in gradescope.render(grade)
    assert "가" * 1_000_000 in page.render(grade)
    assert validated("grade.json", grade)["records"][0]["message"] == "가" * 1_000_000


def test_many_tests_share_the_room_that_there_is() -> None:
    """Messages are cut first; in an environment variable, tests are then merged by exercise. No points are lost."""
    for number, entries in [(150, 150), (2000, 2)]:
        failed = tuple(record("failed", 1, 2, f"week1/exercise{i % 2}", message="wrong " * 500) for i in range(number))
        grade = Grade(failed)
        assert len(f"RESULTS={classroom.render_base64(grade)}") < 128 * 1024
        assert len(validated("classroom/results.json", grade)["tests"]) == entries
        check_agreement("classroom/results.base64", classroom.render_base64(grade), grade)
        assert len(summary.render(grade).encode()) <= 2**20
        check_agreement("summary.md", summary.render(grade), grade)


def test_a_report_that_cannot_fit_says_so() -> None:
    with pytest.raises(ValueError, match="must fit into 10 bytes, but needs 11"):
        fitted(lambda limit: "x" * (limit + 11), 10)


@pytest.mark.parametrize("limit", [0, 5, 40, 99, 100, 101])
def test_a_cut_stays_within_its_limit(limit: int) -> None:
    text = "x" * 100
    shown = cut(text, limit)
    assert len(shown) <= limit
    assert shown == text if limit >= 100 else shown in ("", "x" * (limit - 29) + "\n[cut: too long to show here]")


def test_numbers_that_json_lacks_are_read_back(tmp_path: Path) -> None:
    figures = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1e308, "e": "Infinity"}
    grade = Grade((record("failed", figures=figures),))
    for name in SCHEMAS:
        validated(name, grade)
    (tmp_path / "grade.json").write_text(grade_json.render(grade), encoding="utf-8")
    back = read_grade(tmp_path / "grade.json").records[0].figures
    assert math.isnan(float(back.pop("a")))
    assert back == {key: value for key, value in figures.items() if key != "a"}


def test_titles_and_ids_may_repeat_and_hold_anything(tmp_path: Path) -> None:
    same = [replace(record("failed", 1), id="week1/moe::test[a/b::c]-[0]", title="same") for _ in range(3)]
    grade = Grade(tuple(same))
    write_reports(grade, tmp_path)
    for name in FILES:
        check_agreement(name, (tmp_path / name).read_text(encoding="utf-8"), grade)
    assert [test["number"] for test in loads(gradescope.render(grade))["tests"]] == ["1.1", "1.2", "1.3"]


# --- grade.json ------------------------------------------------------------------------------------------------------


@given(grade=grades())
@examples
def test_a_grade_is_read_back_as_it_was(grade: Grade, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("round_trip") / "grade.json"
    path.write_text(grade_json.render(grade), encoding="utf-8")
    assert read_grade(path) == grade


def test_bytes_that_are_no_text_survive_in_grade_json(tmp_path: Path) -> None:
    grade = Grade((record("failed", output=CONTROLS),))
    write_reports(grade, tmp_path)
    assert read_grade(tmp_path / "grade.json") == grade


def test_the_schema_describes_every_field_of_this_version() -> None:
    schema = SCHEMAS["grade.json"][1]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["version"]["const"] == grade_json.VERSION
    objects = [
        schema,
        *schema["$defs"].values(),
        schema["$defs"]["record"]["properties"]["parts"]["additionalProperties"],
    ]
    for properties in (it["properties"] for it in objects if "properties" in it):
        assert [name for name, field in properties.items() if "description" not in field] == []
    assert schema["$defs"]["record"]["properties"].keys() == record("passed").to_dict().keys()
    assert schema["$defs"]["record"]["properties"]["verdict"]["enum"] == list(VERDICTS)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"version": 2}', "its version must be 1, not 2"),
        ("{}", "'version'"),
        ("[]", "list indices"),
        ("not JSON", "Expecting value"),
    ],
)
def test_what_is_not_a_grade_is_refused(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "grade.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"grade.json is not a grade: .*{re.escape(why)}"):
        read_grade(path)


def test_json_is_readable_utf8() -> None:
    assert to_json({"title": "어텐션"}, indent=None) == '{"title": "어텐션"}'
    assert to_json("\udc80") == '"\\udc80"'


# --- writing ---------------------------------------------------------------------------------------------------------


def test_all_reports_are_written_where_they_are_said_to_be(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    written = write_reports(SAMPLE, folder)
    assert {str(path.relative_to(folder).as_posix()) for path in written} == {
        *FILES,
        "classroom/week1-self_attention.json",
        "classroom/week1-moe.json",
        "classroom/week2-varlen.json",
        "classroom/week2-agents.json",
    }
    assert set(written) == {path for path in folder.rglob("*") if path.is_file()}


def test_the_runners_of_all_exercises_add_up(tmp_path: Path) -> None:
    write_reports(SAMPLE, tmp_path)
    runners = [loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "classroom").glob("week*.json")]
    for data in runners:
        jsonschema.validate(data, CLASSROOM_SCHEMA)
    assert sum(data["max_score"] for data in runners) == SAMPLE.max_points
    assert sum(test["score"] for data in runners for test in data["tests"]) == SAMPLE.points


def test_one_failing_report_does_not_lose_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write_reports(SAMPLE, tmp_path)

    def fail(grade: Grade) -> str:
        raise RuntimeError("no ink")

    monkeypatch.setattr(gradescope, "render", fail)
    (tmp_path / "summary.md").unlink()
    (tmp_path / "summary.md").mkdir()
    with pytest.raises(ReportError, match=r"gradescope/results\.json \(RuntimeError: no ink\); summary\.md \("):
        write_reports(Grade(SAMPLE.records[:1]), tmp_path)
    assert not (tmp_path / "gradescope/results.json").exists(), "the report of another run must not stay"
    assert read_grade(tmp_path / "grade.json") == Grade(SAMPLE.records[:1])
    check_agreement("index.html", (tmp_path / "index.html").read_text(encoding="utf-8"), Grade(SAMPLE.records[:1]))
    assert {path for path in tmp_path.rglob("*") if path.is_file()} <= set(before), "nothing half-written"


def test_a_write_that_breaks_off_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_text(path: Path, text: str, **options: Any) -> int:
        with path.open("w", encoding="utf-8") as file:
            file.write(text[: len(text) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", write_text)
    with pytest.raises(ReportError, match=r"summary\.md \(OSError: disk full\)"):
        write_reports(SAMPLE, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# --- one cause, one message ------------------------------------------------------------------------------------------


def failing(name: str, *mistakes: str, cause: str = "", lost: float = 1, size: int = 0) -> Record:
    message = "called     f(x)\ngot        3\nread       exercises/week1/moe.md#routing"
    return Record(
        f"week1/moe::test_{name}", name, "failed", 0, lost, mistakes=mistakes, cause=cause, size=size, message=message
    )


def told(*records: Record) -> list[tuple[str, list[str]]]:
    """For each cause, the name of the failure that is told and those of the others."""
    found = causes(Tally(records))
    assert sorted(each.id for cause in found for each in cause.failures) == sorted(each.id for each in records)
    return [(cause.shown.title, [each.title for each in cause.alike]) for cause in found]


def test_failures_with_one_mistake_are_one_cause_and_the_smallest_is_told() -> None:
    assert told(failing("a", "m", size=30), failing("b", "m", size=4), failing("c", "m", size=4)) == [("b", ["a", "c"])]


def test_the_mistake_that_costs_most_comes_first_and_what_nothing_explains_last() -> None:
    records = [
        failing("a", lost=9),
        failing("b", "cheap"),
        failing("c", "dear", lost=2),
        failing("d", "cheap", lost=0.5),
    ]
    assert told(*records) == [("c", []), ("b", ["d"]), ("a", [])]


@pytest.mark.parametrize(
    ("records", "groups"),
    [
        ([failing("a", "m"), failing("b", "m", "n")], [("a", []), ("b", [])]),
        ([failing("a", "m", lost=3), failing("b", "m", "n"), failing("c", "n")], [("a", []), ("c", ["b"])]),
        ([failing("a", "m", "n"), failing("b", "n", "m")], [("a", ["b"])]),
    ],
)
def test_a_failure_of_several_mistakes_is_told_with_the_last_of_them(records: list[Record], groups: Any) -> None:
    assert told(*records) == groups


def test_what_nothing_explains_is_grouped_by_what_it_has_in_common() -> None:
    records = [
        failing("a", cause="line 3"),
        failing("b"),
        failing("c", cause="line 3"),
        failing("d"),
        failing("e", "m"),
    ]
    assert told(*records) == [("e", []), ("a", ["c"]), ("b", []), ("d", [])]


def test_a_file_that_does_not_load_is_told_before_everything() -> None:
    assert told(failing("a", "m", lost=9), failing("b", cause="week1/moe.py")) == [("b", []), ("a", [])]


@given(grade=grades())
@examples
def test_every_failure_has_one_cause(grade: Grade) -> None:
    for tally in grade.by_exercise().values():
        ids = [id(record) for cause in causes(tally) for record in cause.failures]
        assert sorted(ids) == sorted(id(record) for record in tally.records if record.verdict == "failed")


def test_forty_failures_with_one_mistake_fit_on_a_screen() -> None:
    records = [failing(f"{'_'.join(['word'] * 8)}_{number}[{letter}]", "m") for number in range(20) for letter in "ab"]
    ((heading, lines),) = terminal.failures(Tally(tuple(records)))
    assert heading == records[0].test
    assert len(lines) <= 12 and max(map(len, lines)) <= 80
    assert lines[5] == "also       39 more tests fail by the same mistake, 39 points:"
    assert lines[-1].endswith(", and 16 more")
    assert "_1[a, b]" in lines[7]


def test_the_words_for_tests_that_fail_alike() -> None:
    ((_, one),) = terminal.failures(Tally((failing("a", cause="x"), failing("b", cause="x", lost=2))))
    assert one[-1] == "also       1 more test fails in the same way, 2 points: test_b"
    ((heading, file),) = terminal.failures(
        Tally((failing("a", cause="week1/moe.py"), failing("b", cause="week1/moe.py")))
    )
    assert heading == "week1/moe.py does not load"
    assert file[-1] == "None of its 2 tests can run: 0 of 2 points."


def test_failures_without_a_known_cause_are_all_told() -> None:
    blocks = terminal.failures(Tally(tuple(failing(str(number)) for number in range(30))))
    assert [heading for heading, _ in blocks] == [f"test_{number}" for number in range(30)]


def test_what_nothing_explains_is_told_in_the_order_of_the_tests() -> None:
    records = [failing("a"), failing("b", lost=2), failing("c", cause="x"), failing("d", cause="x")]
    assert told(*records) == [("c", ["d"]), ("a", []), ("b", [])]


# --- the terminal ----------------------------------------------------------------------------------------------------


@given(grade=grades(), width=st.integers(1, 120))
@examples
def test_no_line_of_the_table_is_wider_than_asked(grade: Grade, width: int) -> None:
    lines = points_table(grade, width)
    for tally in grade.by_exercise().values():
        lines += terminal.tests_table(tally, width)
        for _, below in terminal.failures(tally, max(width, 31)):
            assert not any("\n" in line for line in below)
    assert max(map(terminal.columns, lines)) <= width


def test_hangul_takes_two_columns() -> None:
    assert [terminal.columns(text) for text in ("attention", "어텐션", "e\u0301")] == [9, 6, 1]


@pytest.mark.parametrize("name", ["x" * 200, "어" * 100])
def test_a_long_name_gives_way_to_its_points(name: str) -> None:
    header, row, total = points_table(Grade((record("failed", 1, 2, f"week1/{name}"),)), 60)
    assert header == "week1"
    assert re.fullmatch(r"  [x어]+\.\.\. +1/2  \[####\.\.\.\.\]  1 test to go", row)
    assert terminal.columns(row) <= 60
    assert row.index("1/2") - total.index("1/2") == len(row) - len(total)  # same column: Hangul takes two


def test_the_bar_is_full_only_when_every_point_is_earned() -> None:
    almost = [record("passed", 1, 1)] * 999 + [record("failed", 0, 1)]
    assert "[#######.]" in points_table(Grade(tuple(almost)))[-1]
    assert "[########]" in points_table(Grade(tuple(almost[:-1])))[-1]


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        ([record("not started")] * 3, "not started"),
        ([record("passed", 2), record("failed"), record("not started")], "2 tests to go"),
        ([record("passed", 2), record("failed", 0, 0)], "1 test to go"),
        ([record("passed", 2)], "done"),
        ([record("not offered")] * 2, "not offered"),
        ([record("passed", 2), record("not offered", 0, 3)], "done, 3 points not offered"),
        ([record("not gradable here", 0, 2, reason="needs a GPU")] * 2, "4 points need a GPU"),
        ([record("not gradable here", 0, 1, reason="needs a GPU")], "1 point needs a GPU"),
        ([record("not gradable here", 0, 0, reason="needs a GPU")] * 2, "2 tests need a GPU"),
        ([record("not gradable here", 0, 2, reason="no CUDA")], "2 points not gradable here"),
        ([record("inconclusive", 0, 1)], "1 point inconclusive"),
        ([record("passed", 2), record("error")], "1 grader error"),
        ([record("failed"), record("error"), record("error")], "2 grader errors, 1 test to go"),
    ],
)
def test_an_exercise_is_summed_up_in_a_few_words(outcomes: list[Record], words: str) -> None:
    assert state(Tally(tuple(outcomes))) == words


FAILED = record("failed", 0, 2, "week1/b", title="scale divides", handout="exercises/week1/b.md#scaling")
UNSTARTED = record("not started", 0, 3, "week1/a", handout="exercises/week1/a.md#routing")
ERROR = record("error", exercise="week2/c", title="breaks")


@pytest.mark.parametrize(
    ("outcomes", "advice"),
    [
        (
            [UNSTARTED, FAILED, ERROR],
            'The grader itself broke in 1 test, first in "breaks" of week2/c. '
            "That is not your fault: please report it.",
        ),
        (
            [UNSTARTED, record("passed", 2, 2, "week1/b"), FAILED, replace(FAILED, title="later")],
            'Next: make "scale divides" of week1/b pass. Read exercises/week1/b.md#scaling.',
        ),
        (
            [FAILED, replace(FAILED, title="alike", cause="x", size=2), replace(FAILED, title="smaller", cause="x")],
            'Next: make "smaller" of week1/b pass; 4 points in all. Read exercises/week1/b.md#scaling.',
        ),
        (
            [FAILED, replace(FAILED, cause="week1/b.py")],
            "Next: make week1/b.py load.",
        ),
        (
            [record("passed", 2, 2, "week1/a"), UNSTARTED, replace(UNSTARTED, title="later")],
            'Next: go on with week1/a, 6 points to earn: "a test that is not started". '
            "Read exercises/week1/a.md#routing.",
        ),
        (
            [record("passed", 2), UNSTARTED, replace(UNSTARTED, max_points=1), record("not started", 0, 9)],
            "Next: start week1/a, 4 points to earn. Read exercises/week1/a.md.",
        ),
        ([replace(UNSTARTED, handout=None)], "Next: start week1/a, 3 points to earn."),
        ([record("passed", 2)], "Well done: you have earned all 2 points that can be earned here."),
        (
            [record("passed", 2), record("not gradable here", 0, 4, reason="needs a GPU")],
            "Well done: you have earned all 2 points that can be earned here.",
        ),
        ([record("not offered")], "Nothing could be graded here."),
    ],
)
def test_the_next_step_is_the_first_thing_to_do(outcomes: list[Record], advice: str) -> None:
    assert next_step(Grade(tuple(outcomes))) == advice


def test_advice_names_what_was_graded() -> None:
    advice = next_step(Grade((FAILED,), implementation="hand-ins/ada"))
    assert advice is not None and advice.startswith('Next for hand-ins/ada: make "scale divides"')
    assert next_step(Grade((record("passed", 2),), implementation="solutions")) == (
        "solutions: all 2 points that can be earned here."
    )


def test_a_table_reads_as_it_should() -> None:
    """The layout of a whole table: points are aligned at the slash."""
    outcomes = [
        record("passed", 12, 12, "week1/self_attention"),
        record("failed", 0.5, 2, "week1/self_attention"),
        record("not started", 0, 10, "week2/moe"),
    ]
    assert points_table(Grade(tuple(outcomes))) == [
        "week1",
        "  self_attention  12.5/14  [#######.]  1 test to go",
        "week2",
        "  moe                0/10  [........]  not started",
        "total             12.5/24  [####....]  2 tests to go",
    ]
    assert show_points(12.5) == "12.5"
