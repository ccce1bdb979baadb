"""The total is fixed before anything runs: what was not reached counts 0, whatever ended the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.grading.conftest import environment, write_hand_in
from tests.grading.test_students import with_body

TESTS = 7
POINTS = 10


def complete(run) -> None:
    """The total is that of a whole run."""
    assert len(run.grade["records"]) == TESTS
    assert run.grade["total"]["max_points"] == POINTS
    assert run.grade["total"]["points"] == sum(record["points"] for record in run.grade["records"])


def test_the_figures_above_are_those_of_a_whole_run(toy, run_pytest):
    run = run_pytest(toy, "exercises", "--impl", "solutions")
    complete(run)
    assert run.status == 0


def test_a_run_that_stops_at_the_first_failure_reports_all_tests(toy, run_pytest):
    hand_in = write_hand_in(toy / "hand-in", mean=with_body("return x"))
    run = run_pytest(toy, "exercises", "--impl", str(hand_in), "-x", "--no-isolate")
    complete(run)
    assert run.status == 6, run.text
    assert run.count("failed") == 1
    assert run.count("not reached") + run.count("passed") == TESTS - 1
    assert "not reached" in (run.folder / "summary.md").read_text("utf-8").replace("Not", "not")
    assert "before" in run.text and "they count 0" in run.text


def test_a_submission_that_interrupts_the_run_loses_what_comes_after(toy, run_pytest):
    """What ran before Ctrl-C is not the whole."""
    body = "import os, signal\nif x.dtype == torch.float16: signal.raise_signal(signal.SIGINT)\nreturn x.mean(dim)"
    hand_in = write_hand_in(toy / "hand-in", mean=with_body(body))
    run = run_pytest(toy, "exercises", "--impl", str(hand_in), "--no-isolate")
    complete(run)
    assert run.status == 2
    assert run.count("not reached")


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whoever_ends_a_run_gets_its_reports(toy, tmp_path, number):
    body = "open(r'STARTED', 'w').close()\nimport time\nif x.dtype == torch.float16: time.sleep(30)\nreturn x.mean(dim)"
    started, report = tmp_path / "started", tmp_path / "report"
    hand_in = write_hand_in(toy / "hand-in", mean=with_body(body.replace("STARTED", str(started))))
    command = [sys.executable, "-m", "pytest", "exercises", "--impl", str(hand_in), "--no-isolate", "--report", report]
    run = subprocess.Popen(
        command,
        cwd=toy,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # nohup and background jobs ignore some
    )
    deadline = time.monotonic() + 60
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    run.send_signal(number)
    run.communicate(timeout=60)
    grade = json.loads((report / "grade.json").read_text("utf-8"))
    assert run.returncode == 2
    assert len(grade["records"]) == TESTS and grade["total"]["max_points"] == POINTS


def test_what_is_not_reached_within_the_time_counts_nothing(toy, run_pytest):
    body = "import time\ntime.sleep(1.5)\nreturn x.mean(dim)"
    hand_in = write_hand_in(toy / "hand-in", mean=with_body(body))
    run = run_pytest(toy, "exercises", "--impl", str(hand_in), "--no-isolate", "--time-budget", "0.05m")
    complete(run)
    assert run.status == 6
    missed = [record for record in run.grade["records"] if record["verdict"] == "not reached"]
    assert missed and all("within the 3 s of --time-budget" in record["reason"] for record in missed)
    verdicts = [record["verdict"] == "not reached" for record in run.grade["records"]]
    assert verdicts == sorted(verdicts), "the order of the tests is fixed"


@pytest.mark.parametrize("text", ["soon", "-3", "0", "nan"])
def test_a_time_that_is_none_is_refused(toy, run_pytest, text):
    run = run_pytest(toy, "exercises", f"--time-budget={text}")
    assert run.status == 4
    assert text in run.text


def test_what_a_person_leaves_out_is_not_in_the_total(toy, run_pytest):
    run = run_pytest(toy, "exercises", "--impl", "solutions", "-k", "plain_mean")
    assert run.status == 0
    assert {record["id"].partition("[")[0] for record in run.grade["records"]} == {"week1/mean::test_plain_mean"}


def test_listing_the_tests_reports_nothing(toy, run_pytest):
    run = run_pytest(toy, "exercises", "--impl", "solutions", "--collect-only")
    assert run.status == 0
    assert not run.grade["records"]


def test_workers_share_one_total(toy, run_pytest):
    hand_in = write_hand_in(toy / "hand-in", mean=with_body("return x"))
    run = run_pytest(toy, "exercises", "--impl", str(hand_in), "-n", "2", "-x", "--no-isolate")
    complete(run)
    assert run.status in (2, 6)  # xdist calls what -x ends an interruption


@pytest.mark.parametrize("obstacle", ["a folder", "a folder's name is taken"])
def test_a_report_that_cannot_be_written_has_its_own_status(toy, run_pytest, tmp_path, obstacle):
    folder = tmp_path / "report-1"  # where `run_pytest` will write
    folder.mkdir()
    if obstacle == "a folder":
        (folder / "summary.md").mkdir()
    else:
        (folder / "gradescope").write_text("")
    run = run_pytest(toy, "exercises", "--impl", "solutions")
    assert run.status == 7
    assert "could not write" in run.text
    grade = json.loads((folder / "grade.json").read_text("utf-8"))
    assert grade["total"]["points"] == POINTS, "the other reports are written"
