"""Saved runs: what is a regression, what is noise, where a history has a step, and the commands that report it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from grading.course.layout import Course
from grading.history.compare import REGRESSIONS, compare, show
from grading.history.runs import Measured, Run, RunError, find_run, kept_runs
from grading.history.trend import draw, steps
from tests.grading.conftest import environment
from tests.grading.test_speed import timed as timed


def measured(ratio: float, seed: int, *, pairs: int = 12, spread: float = 0.05, seconds: float = 0.01) -> Measured:
    generator = random.Random(seed)
    ratios = tuple(ratio * generator.lognormvariate(0, spread) for _ in range(pairs))
    return Measured(ratios, (seconds,) * pairs, reference="solutions", tolerance=0.1)


def run(name: str = "run", machine: str = "here", **tests: Measured) -> Run:
    return Run(name, name, machine, {f"week1/x::test_{test}": value for test, value in tests.items()})


def changes(before: Run, now: Run) -> dict[str, str]:
    return {finding.test.rpartition("_")[2]: finding.change for finding in compare(before, now)}


def test_changes_beyond_the_tolerance_are_found():
    before = run(slow=measured(1.0, 1), fast=measured(1.0, 2), same=measured(1.0, 3))
    now = run(slow=measured(0.7, 4), fast=measured(1.5, 5), same=measured(0.95, 6))
    assert changes(before, now) == {"slow": "slower", "fast": "faster", "same": "same"}


def test_noise_is_no_change():
    found = [
        compare(run(x=measured(1, seed, spread=0.4)), run(x=measured(1, seed + 500, spread=0.4)))[0].change
        for seed in range(200)
    ]
    assert sum(change in REGRESSIONS for change in found) <= 4
    assert "unclear" in found


def test_each_test_has_its_own_tolerance():
    lenient = Measured(measured(0.7, 2).ratios, (0.01,) * 12, reference="solutions", tolerance=0.5)
    assert changes(run(x=measured(1, 1)), run(x=lenient)) == {"x": "same"}


def test_another_machine_is_compared_by_ratios_alone():
    before, now = run(x=measured(1, 1)), run(machine="there", x=measured(1, 2, seconds=0.5))
    (finding,) = compare(before, now)
    assert finding.change == "same" and not finding.note
    (finding,) = compare(before, run(x=measured(1, 2, seconds=0.5)))
    assert finding.change == "same" and "times as long, but so does its reference" in finding.note


def test_what_vanished_is_a_regression_and_its_new_name_is_guessed():
    before = run(chunked_scan_is_fast=measured(1, 1), other=measured(1, 2))
    findings = compare(before, run(chunked_scans_are_fast=measured(1, 1), other=measured(1, 2)))
    assert findings[0].change == "gone"
    assert findings[0].note == "renamed to week1/x::test_chunked_scans_are_fast?"
    assert compare(before, run(other=measured(1, 2)))[0].note == "removed, or not measured this time"


def test_counts_are_compared_exactly():
    def counted(**counts: float) -> Run:
        return run(x=Measured(counts=tuple(counts.items())))

    assert changes(counted(ops=10), counted(ops=10)) == {"x": "same"}
    assert changes(counted(ops=10), counted(ops=11)) == {"x": "more"}
    assert changes(counted(ops=10), counted(ops=9)) == {"x": "less"}
    assert changes(counted(ops=10), counted(flops=10)) in ({"x": "new"}, {"x": "gone"})
    assert "| week1/x::test_x | 10 ops | 11 ops | more |" in show(
        counted(ops=10), counted(ops=11), compare(counted(ops=10), counted(ops=11))
    )


def test_speeds_relative_to_different_references_are_not_compared():
    other = Measured(measured(0.2, 2).ratios, (0.01,) * 12, reference="torch", tolerance=0.1)
    assert changes(run(x=measured(1, 1)), run(x=other)) == {"x": "unclear"}


@pytest.mark.parametrize("at", [3, 8, 12])
def test_the_step_in_a_history_is_found(at):
    generator = random.Random(at)
    values = [(1.0 if index < at else 0.7) * generator.lognormvariate(0, 0.05) for index in range(16)]
    assert steps(values, 0.1) == [at]


def test_two_steps_are_found_and_none_where_there_is_none():
    generator = random.Random(0)

    def level(value: float, number: int) -> list[float]:
        return [value * generator.lognormvariate(0, 0.04) for _ in range(number)]

    assert steps(level(1.0, 10) + level(0.6, 10) + level(0.9, 10), 0.1) == [10, 20]
    assert sum(bool(steps(level(1.0, 20), 0.01)) for _ in range(50)) <= 4
    assert steps(level(1.0, 10) + level(0.95, 10), 0.1) == []  # within the tolerance
    assert steps([1.0], 0.1) == []


# --- from the command line ------------------------------------------------------------------------------------------


def keep(course: Path, number: int, ratio: float, machine: str = "here") -> Path:
    """A run as pytest-benchmark saves it."""
    value = measured(ratio, number)
    info = {
        "ratios": value.ratios, "reference_costs": value.reference_costs, "reference": "solutions",
        "tolerance": 0.1, "machine": machine,
    }  # fmt: skip
    benchmarks = [
        {"fullname": "week1/mean::test_speed", "extra_info": info},
        {"fullname": "week1/mean::test_operations", "extra_info": {"counts": {"ops": 10, "saved_bytes": 0}}},
    ]
    path = course / "benchmarks" / machine / "Linux" / f"{number:04}_run.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"datetime": f"2026-01-{number:02}", "benchmarks": benchmarks}), "utf-8")
    return path


def grading(course: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "grading", "benchmarks", *arguments]
    return subprocess.run(command, cwd=course, env=environment(), capture_output=True, text=True, timeout=120)


def test_compare_says_what_got_slower_and_fails(toy):
    a, b = keep(toy, 1, 1.0), keep(toy, 2, 0.6)
    done = grading(toy, "compare", "0001", str(b))
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("**1 slower, 2 same**: 0002_run against 0001_run, on here.")
    assert "| week1/mean::test_speed | " in done.stdout and "| slower |" in done.stdout
    assert grading(toy, "compare", str(a), str(a)).returncode == 0


@pytest.mark.parametrize(
    "arguments, words",
    [(["compare"], "0 saved runs, too few"), (["compare", "nothing", "nowhere"], "no such run")],
)
def test_compare_says_what_is_missing(toy, arguments, words):
    done = grading(toy, *arguments)
    assert done.returncode == 4 and words in done.stderr and "Traceback" not in done.stderr


def test_a_file_that_is_no_run_is_refused(toy):
    (toy / "other.json").write_text('{"datetime": 1}', "utf-8")
    with pytest.raises(RunError, match="not a file written by --benchmark-save"):
        find_run(Course(toy), str(toy / "other.json"))


def test_history_draws_each_test_and_names_the_step(toy):
    for number in range(1, 13):
        keep(toy, number, 1.0 if number < 7 else 0.6)
    done = grading(toy, "history")
    assert done.returncode == 0, done.stderr
    assert "benchmarks/here/history.svg: 12 runs" in done.stdout
    assert "week1/mean::test_speed speed: " in done.stdout and "before 0007_run" in done.stdout
    drawn = (toy / "benchmarks/here/history.svg").read_text("utf-8")
    assert drawn.count('id="axes_') == 3  # the speed, and two counts
    assert len(kept_runs(Course(toy), "here")) == 12


def test_a_history_of_one_run_is_drawn(toy):
    keep(toy, 1, 1.0)
    assert draw(kept_runs(Course(toy), "here"), toy / "one.svg") == []


def test_a_run_is_kept_and_the_next_is_judged_by_it(timed, run_pytest):
    only = ("exercises", "--impl", "solutions", "-k", "speed or operations")
    none = run_pytest(timed, *only, "--against")
    assert none.status == 4 and "--against: benchmarks/ has no saved runs" in none.text
    first = run_pytest(timed, *only, "--benchmark-autosave")
    assert first.status == 0, first.text
    (kept,) = (timed / "benchmarks").glob("*/*/0001_*.json")
    second = run_pytest(timed, *only, "--against", "--benchmark-autosave")
    assert second.status == 0, second.text
    assert "2 same" in second.text or "3 same" in second.text  # calls so short may leave their speed unclear
    assert f"this run against {kept.stem}" in second.text

    data = json.loads(kept.read_text("utf-8"))
    (info,) = [each["extra_info"] for each in data["benchmarks"] if "ratios" in each["extra_info"]]
    info["ratios"] = [ratio * 30 for ratio in info["ratios"]]  # so this run is much slower despite any noise
    kept.write_text(json.dumps(data), "utf-8")
    third = run_pytest(timed, *only, "--against", str(kept))
    assert third.status == 1 and "1 slower" in third.text
    assert third.record("test_speed")["verdict"] == "passed"
    selected = run_pytest(timed, *only[:-1], "operations", "--against", str(kept))
    assert selected.status == 0, "a deselected test is not gone"
