"""What a student sees: unstarted and started exercises, and every way in which a submission can be broken."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from grading.course.layout import Course
from grading.data.record import Record, Tally
from grading.mistakes.bank import load_bank
from grading.reports.causes import causes
from tests.grading.conftest import ROOT, TOY, grade_trees, write_hand_in

SOLUTION = (TOY / "solutions/week1/mean.py").read_text("utf-8")
STUB = (TOY / "exercises/week1/mean.py").read_text("utf-8")
BODY = SOLUTION[SOLUTION.index("    if weights is None:") : SOLUTION.index("class Centred")].rstrip()


def with_body(body: str) -> str:
    """The solution with a different body of weighted_mean."""
    return SOLUTION.replace(BODY, "\n".join(f"    {line}" for line in body.splitlines()))


def visible(text: str) -> str:
    """The terminal's text without the parts that differ from run to run."""
    # The last line includes the time and is padded to the width.
    text = re.sub(r"=+ (\d+ \w+.*?) in \d+\.\d+s.*? =+", r"\1", text[text.index("collected") :])
    return re.sub(r"(Reports: ).*", r"\1…", text).rstrip()


def test_an_unstarted_exercise_says_what_there_is_to_earn(toy, run_pytest, snapshot):
    run = run_pytest(toy, "exercises")
    assert run.status == 1
    assert visible(run.text) == snapshot
    assert {record["verdict"] for record in run.grade["records"]} == {"not started"}


def test_an_unstarted_exercise_is_answered_without_torch(toy, run_pytest):
    (toy / "torch.py").write_text('raise ImportError("torch was imported")', "utf-8")  # found before the real one
    run = run_pytest(toy, "exercises")
    assert run.status == 1
    assert "torch was imported" not in run.text
    assert "7 not started" in run.text


def test_a_wrong_answer_is_explained(graded, snapshot):
    run = graded(with_body("print('trying')\nreturn (x * weights).sum(dim) if weights is not None else x.sum(dim)"))
    assert run.status == 1
    assert visible(run.text) == snapshot
    assert all(len(line) <= 80 for line in visible(run.text).splitlines())


def test_known_mistakes_are_looked_up_while_patience_lasts(toy, run_pytest):
    source = with_body("return (x * weights).sum(dim) if weights is not None else x.sum(dim)")
    hand_in = str(write_hand_in(toy / "hand-in", mean=source))
    named = [record["mistakes"] for record in run_pytest(toy, "exercises", "--impl", hand_in).grade["records"]]
    with (toy / "conftest.py").open("a", encoding="utf-8") as conftest:
        conftest.write("import grading.session.session\ngrading.session.session.PATIENCE = 0.0\n")
    run = run_pytest(toy, "exercises", "--impl", hand_in)
    assert any(named) and run.status == 1
    assert not any(record["mistakes"] for record in run.grade["records"])


def test_everything_earned_is_success(toy, run_pytest, snapshot):
    run = run_pytest(toy, "exercises", "--impl", "solutions")
    assert run.status == 0
    assert visible(run.text) == snapshot


def with_line(line: str) -> str:
    """The solution with one more import."""
    return SOLUTION.replace("import torch\n", f"import torch\n{line}\n", 1)


SIGNATURE = "x: torch.Tensor, weights: torch.Tensor | None = None, dim: int = -1"

# A fault of a hand-in, and the pattern that its one-line reason must match.
BROKEN = {
    "a syntax error": (
        SOLUTION.replace("return _divide(", "return _divide(("),
        r"week1/mean\.py, line \d+.*'\(' was never closed",
    ),
    "an import that fails": (
        with_line("import no_such_package"),
        "can't be imported: ModuleNotFoundError: No module named 'no_such_package'",
    ),
    "an error at the top level": (SOLUTION + "\n1 / 0\n", "can't be imported: ZeroDivisionError"),
    "a renamed function": (
        SOLUTION.replace("weighted_mean", "weighed_mean"),
        r"has no weighted_mean; is weighed_mean a typo\?",
    ),
    "too few parameters": (
        with_body("return 1").replace(SIGNATURE, "x"),
        r"weighted_mean\(x\).* does not fit the call: too many positional arguments",
    ),
    "a parameter too many": (
        with_body("return 1").replace(SIGNATURE, "x, y, weights=None"),
        r"does not fit the call: missing a required argument: 'y'",
    ),
    "a function that is no function": (
        SOLUTION + "\nweighted_mean = 3\n",
        "weighted_mean is not callable: its type is int",
    ),
    "no answer": (with_body("pass"), "no tensor was returned"),
    "a list": (with_body("return x.mean(dim).tolist()"), "no tensor was returned"),
    "a number": (with_body("return 3.0"), "no tensor was returned"),
    "an odd object": (with_body("return object()"), "no tensor was returned"),
    "a parameter": (with_body("return torch.nn.Parameter(x.mean(dim))"), r"not a plain torch\.Tensor"),
    "a sparse tensor": (with_body("return x.mean(dim).to_sparse()"), "no tensor was returned"),
    "another dtype": (with_body("return x.double().mean(dim)"), "wrong dtype"),
    "another shape": (with_body("return x.mean(dim, keepdim=True)"), "wrong shape"),
    "inputs that change": (with_body("x.data.mul_(2)\nreturn x.mean(dim) / 2"), "the call changed its argument x"),
    "a view of the input": (with_body("return x.select(dim, 0)"), r"shares memory with x"),
    "no graph": (with_body("return x.detach().mean(dim)"), "no gradient flows through the output"),
    "an exception": (with_body("return x[10**6]"), "IndexError"),
    "a refusal of everything": (
        with_body("raise ValueError('length 7 is not 8')"),
        "what should be accepted raises ValueError too: ValueError: length 7 is not 8",
    ),
    "sys.exit": (with_body("import sys\nsys.exit(0)"), "SystemExit"),
    "endless recursion": (with_body("return weighted_mean(x)"), "RecursionError"),
    "a gigabyte of output": (
        with_body("while True:\n    print('x' * 1000000)"),
        r"printed more than 10 MB and was stopped at week1/mean.py, line \d+",
    ),
    "the answers of another tree": (with_line("from solutions.week1.mean import weighted_mean"), "imports solutions"),
    "the grader": (with_line("import grading.run.observer"), "imports grading"),
}


@pytest.fixture(scope="session")
def broken(tmp_path_factory):
    """The records of every broken hand-in, from one process."""
    folder = tmp_path_factory.mktemp("broken")
    trees = [str(write_hand_in(folder / str(n), mean=source)) for n, (source, _) in enumerate(BROKEN.values())]
    return dict(zip(BROKEN, grade_trees(TOY, "week1/mean", *trees), strict=True))


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_hand_in_gets_one_clear_line(broken, what):
    records = broken[what]
    assert len(records) == 7, "every test has its record"
    failed = [record for record in records if record["verdict"] == "failed"]
    assert failed
    assert {record["verdict"] for record in records} <= {"passed", "failed"}
    reasons = [record["reason"] for record in failed]
    assert any(re.search(BROKEN[what][1], reason) for reason in reasons), reasons
    assert all("\n" not in reason and len(reason) < 400 for reason in reasons)
    assert not any("whetstone_tree" in record["message"] or "grading/" in record["message"] for record in records)


@pytest.fixture
def graded(toy, run_pytest):
    """`graded(source)` grades a hand-in with this file; its name is the same wherever the tests run."""

    def grade(source, *arguments):
        write_hand_in(toy / "hand-in", mean=source)
        return run_pytest(toy, "exercises", "--impl", "hand-in", *arguments)

    return grade


@pytest.mark.parametrize("what", ["a syntax error", "an error at the top level"])
def test_a_file_that_does_not_load_is_told_once(graded, snapshot, what):
    assert visible(graded(BROKEN[what][0]).text) == snapshot


WITHOUT_RETURN = SOLUTION.replace("    return _divide", "    _divide")


def test_what_fails_in_the_same_way_is_told_once(graded, snapshot):
    assert visible(graded(WITHOUT_RETURN).text) == snapshot


def test_an_exception_is_told_once_for_each_line_that_raises(graded):
    source = with_body("if weights is not None:\n    raise IndexError(f'no {len(x)}')\nreturn x.mean(dim)[len(x)]")
    run = graded(source)
    causes = {record["cause"] for record in run.grade["records"]}
    assert len(causes) == 3, causes  # two lines raise, one of them also where a ValueError is expected
    assert run.text.count("\nraised at ") == 3
    assert run.text.count("in the same way") == 2


def test_an_endless_loop_is_told_once_also_where_a_scenario_met_it(toy, graded):
    tests = toy / "tests/week1/test_mean.py"
    text = tests.read_text("utf-8").replace(".limit(seconds=5)", ".limit(seconds=1)")
    tests.write_text(
        text.replace('@pytest.mark.handout("', '@pytest.mark.limit(seconds=1)\n@pytest.mark.handout("'), "utf-8"
    )
    run = graded(with_body("while True:\n    pass"), "-k", "plain_mean or weights_count or scenario")
    assert {record["cause"] for record in run.grade["records"]} == {"weighted_mean: out of time"}
    assert run.text.count("did not finish") == 1


def test_all_failures_are_told_if_asked_for(graded, snapshot):
    run = graded(WITHOUT_RETURN, "--all-failures")
    assert visible(run.text) == snapshot
    assert run.text.count("\ngot  ") == run.count("failed")


def test_five_mistakes_are_told_once_each(graded):
    source = SOLUTION
    bank = {mistake.name: mistake for mistake in load_bank(Course(TOY), "week1/mean")}
    for name in ("unbiased", "zero-weights-give-nan", "any-length-taken", "mean-of-everything", "gain-forgotten"):
        source = bank[name].apply(source)
    run = graded(source)
    found = causes(Tally(tuple(Record.from_dict(record) for record in run.grade["records"])))
    assert run.count("failed") == sum(len(cause.failures) for cause in found) >= 5
    headings = re.findall(r"^_+ (test_\S+) _+$", run.text, re.MULTILINE)
    assert headings == [cause.shown.test for cause in found]
    told = " ".join(run.text.split())
    for cause in found:
        for record in cause.alike:
            assert record.test.partition("[")[0] in told
    assert len(run.text.splitlines()) <= 100


def test_one_mistake_fits_on_a_screen(run_pytest, tmp_path):
    """In a real exercise, where it costs forty tests."""
    course = Course(ROOT)
    (mistake,) = [each for each in load_bank(course, "week1/self_attention") if each.name == "scale-missing"]
    source = mistake.apply(course.solution("week1/self_attention").read_text("utf-8"))
    hand_in = str(write_hand_in(tmp_path / "hand-in", self_attention=source))
    run = run_pytest(ROOT, "exercises/week1/self_attention.py", "--impl", hand_in)
    assert run.count("failed") >= 30
    shown = run.text[run.text.index("= week1/self_attention =") :].splitlines()
    assert len(shown) <= 40
    assert max(len(line) for line in shown if "/hand-in" not in line and "Reports: " not in line) <= 80


def test_the_solutions_are_not_praised_as_ones_own_work(toy, run_pytest):
    told = " ".join(run_pytest(toy, "tests/week1/test_mean.py").text.split())
    assert "solutions: all 10 points that can be earned here. Your own work: pytest exercises/week1/mean.py" in told
    assert "Well done" not in told


def test_pytest_tells_its_own_failures_as_ever(toy, graded):
    (toy / "tests/test_other.py").write_text("def test_other():\n    assert 1 + 1 == 3\n", "utf-8")
    run = graded(WITHOUT_RETURN, "tests/test_other.py")
    failures = run.text.partition("= FAILURES =")[2].partition("= week1/mean =")[0]
    assert "assert (1 + 1) == 3" in failures
    assert "weighted_mean" not in failures
    assert "7 failed" in run.text


def test_the_failure_is_in_colour_where_the_terminal_has_it(graded):
    lines = graded(WITHOUT_RETURN, "--color", "yes").text.splitlines()
    assert any(line.startswith("\x1b[") and "got " in line for line in lines)
    assert not any(line.startswith("\x1b[") for line in graded(WITHOUT_RETURN).text.splitlines())


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("no-such-tree", "--impl no-such-tree: no such tree; use one of exercises, solutions"),
        ("solution", "did you mean 'solutions'?"),
        ("conftest.py", "this is a file; give the directory that holds week1/"),
        ("exercises/week1", "no exercises there; a tree has them at weekN/NAME.py"),
    ],
)
def test_a_tree_that_is_not_there_is_one_line_and_a_report(toy, run_pytest, argument, message):
    run = run_pytest(toy, "exercises", "--impl", argument)
    assert run.status == pytest.ExitCode.USAGE_ERROR
    assert message in run.text
    assert "Traceback" not in run.text
    assert message in run.grade["problem"]


def test_a_hand_in_need_not_hold_every_exercise(toy, run_pytest):
    empty = toy / "hand-in"
    (empty / "week1").mkdir(parents=True)
    (empty / "week1/other.py").write_text("x = 1\n")
    run = run_pytest(toy, "exercises", "--impl", "hand-in")
    assert {record["verdict"] for record in run.grade["records"]} == {"not started"}
    assert "hand-in has no week1/mean.py" in run.record("test_centred")["reason"]


def test_what_a_library_lacks_is_not_offered(toy, run_pytest):
    library = toy / "tests/libraries/builtin/week1"
    library.mkdir(parents=True, exist_ok=True)
    (library / "mean.py").write_text(
        "def weighted_mean(x, weights=None, dim=-1):\n"
        "    if weights is not None:\n"
        "        raise NotImplementedError('torch.mean knows no weights')\n"
        "    return x.mean(dim)\n"
    )
    run = run_pytest(toy, "exercises", "--impl", "builtin")
    assert run.status == 0, "what is offered is right"
    assert run.record("test_plain_mean[float32]")["verdict"] == "passed"
    assert run.record("test_weights_count")["verdict"] == "not offered"
    assert run.record("test_weights_count")["reason"] == "torch.mean knows no weights"
    assert run.record("test_centred")["reason"] == "builtin does not offer Centred"
    assert run.grade["total"]["max_points"] == 3


def test_prerequisites_can_be_lent(toy, run_pytest):
    for top in ("exercises", "solutions"):
        (toy / top / "week1/spread.py").write_text(
            "from .mean import weighted_mean\n\n\n"
            "def spread(x):\n    return weighted_mean((x - weighted_mean(x).unsqueeze(-1)) ** 2)\n"
        )
    (toy / "tests/week1/test_spread.py").write_text(
        "import pytest\nfrom grading import expect\n\n\n@pytest.mark.points(1)\ndef test_spread(submission, draw):\n"
        "    expect(submission.call('spread', draw.normal(3, 8))).close_to(lambda x: x.var(-1, correction=0))\n"
    )
    alone = run_pytest(toy, "exercises/week1/spread.py").record("test_spread")
    assert alone["verdict"] == "not started"
    assert "builds on week1/mean, which is not started" in alone["reason"]
    lent = run_pytest(toy, "exercises/week1/spread.py", "--prerequisites", "solutions")
    assert lent.record("test_spread")["verdict"] == "passed"
    assert lent.status == 0


def test_partial_credit_is_earned_part_by_part(toy, run_pytest):
    source = with_body("return weighted_mean_(x, weights, dim).detach() + 0 * x.sum(dim)").replace(
        "class Centred", "def weighted_mean_(x, weights=None, dim=-1):\n" + BODY + "\n\n\nclass Centred"
    )
    run = run_pytest(toy, "exercises", "--impl", str(write_hand_in(toy / "hand-in", mean=source)))
    record = run.record("test_weights_count")
    assert record["verdict"] == "failed"
    assert record["points"] == 2
    assert record["parts"] == {"values": {"points": 2, "max_points": 2}, "gradients": {"points": 0, "max_points": 1}}


def test_ids_are_the_same_before_and_after_an_exercise_is_started(toy, run_pytest):
    before = [record["id"] for record in run_pytest(toy, "exercises").grade["records"]]
    after = [record["id"] for record in run_pytest(toy, "exercises", "--impl", "solutions").grade["records"]]
    below_tests = [record["id"] for record in run_pytest(toy, "tests/week1").grade["records"]]
    assert before == after == below_tests
    assert before[0] == "week1/mean::test_plain_mean[float32]"


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["exercises/week1/mean.py"], 7),
        (["exercises/week1/mean.py::test_centred"], 1),
        (["exercises/week1/mean.py::test_plain_mean[float16]"], 1),
        (["exercises", "-k", "weights"], 2),
        (["exercises", "-n", "2"], 7),
        (["tests/week1/test_mean.py"], 7),
    ],
)
def test_pytest_is_used_as_people_use_it(toy, run_pytest, arguments, count):
    run = run_pytest(toy, *arguments, "--impl", "solutions")
    assert run.status == 0
    assert len(run.grade["records"]) == count
    assert run.grade["total"]["points"] == run.grade["total"]["max_points"] > 0


def test_junit_carries_the_points(toy, run_pytest, tmp_path: Path):
    run_pytest(toy, "exercises", "--impl", "solutions", "--junitxml", str(tmp_path / "junit.xml"))
    text = (tmp_path / "junit.xml").read_text("utf-8")
    assert text.count('<property name="points"') == 7
    assert sum(map(float, re.findall(r'<property name="points" value="([\d.]+)"', text))) == 10


def test_pytest_benchmark_records_a_graded_test(toy, run_pytest, tmp_path):
    (toy / "tests/week1/test_mean.py").write_text(
        "import pytest\n\n\n@pytest.mark.points(1)\ndef test_speed(submission, draw, benchmark):\n"
        "    benchmark.pedantic(submission.call, ('weighted_mean', draw.normal(3, 8)), rounds=3)\n"
    )
    run = run_pytest(toy, "exercises", "--impl", "solutions", "--benchmark-json", str(tmp_path / "benchmark.json"))
    (recorded,) = json.loads((tmp_path / "benchmark.json").read_text("utf-8"))["benchmarks"]
    assert recorded["fullname"] == "exercises/week1/mean.py::test_speed"
    assert recorded["stats"]["rounds"] == 3
    assert run.record("test_speed")["verdict"] == "passed"


def test_another_seed_gives_other_numbers_and_the_same_grade(toy, run_pytest):
    runs = [run_pytest(toy, "exercises", "--impl", "solutions", "--grading-seed", seed) for seed in ("0", "1")]
    assert [run.grade["total"]["points"] for run in runs] == [10, 10]
    assert [run.grade["seed"] for run in runs] == [0, 1]
