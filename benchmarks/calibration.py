"""Can a verdict on speed be trusted on this machine? A thousand judgements of functions of known speed.

`python -m benchmarks.calibration` judges implementations at 0.7, 0.9, 1.1 and 1.4 times a limit as a graded test does,
half of them while another program keeps every core busy, and writes the results to benchmarks/MACHINE/calibration.md.
It takes about half an hour. The right verdict is "too slow" below the limit and "fast enough" above it; none of the
implementations is in the declared grey zone from 0.95 to 1.05.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from tqdm import tqdm

from grading.ask.marks import AtLeast
from grading.ask.submission import Submission
from grading.course.trees import Tree
from grading.data.request import Process
from grading.explain.outcome import Unmet
from grading.judge.hardware import machine_kind
from grading.judge.speed import Contest
from grading.run.executors import Isolated
from grading.run.sandbox import Sandbox

ROOT = Path(__file__).parents[1]
LIMIT = 0.8
FACTORS = (0.7, 0.9, 1.1, 1.4)
UNITS = 200  # of work in a call of the reference: a few milliseconds
SOURCE = """import torch


def work(x):
    for _ in range({units}):
        y = x @ x
    return y
"""
BURN = "import torch\ntorch.set_num_threads(1)\na = torch.randn(700, 700)\nwhile True: a @ a"
JUDGED_BY_ONE_PAIR_OF_PROCESSES = 25


@contextlib.contextmanager
def load(busy: bool) -> Iterator[None]:
    """With another program on every core, if `busy`."""
    burning = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range((os.cpu_count() or 1) * busy)]
    try:
        yield
    finally:
        for each in burning:
            each.kill()
            each.wait()


def trees(folder: Path) -> dict[float, Tree]:
    """A tree for each factor, that many times as fast as the limit requires; under 0, the reference."""
    found = {}
    for factor in (0.0, *FACTORS):
        path = folder / f"{factor}" / "week1" / "work.py"
        path.parent.mkdir(parents=True)
        path.write_text(SOURCE.format(units=round(UNITS / (LIMIT * factor)) if factor else UNITS), "utf-8")
        found[factor] = Tree(f"{factor}", (folder / f"{factor}",))
    return found


def judge(number: int, candidates: dict[float, Tree]) -> Iterator[tuple[float, str, int]]:
    """(factor, verdict, pairs) of each judgement; several judgements share a pair of processes."""
    limit = AtLeast((f"{LIMIT}x",), ("reference",))
    for begun in range(0, number, JUDGED_BY_ONE_PAIR_OF_PROCESSES):
        executors = [Isolated(Sandbox()), Isolated(Sandbox())]
        for index in range(begun, min(begun + JUDGED_BY_ONE_PAIR_OF_PROCESSES, number)):
            factor = FACTORS[index % len(FACTORS)]
            submission, reference = (
                Submission(tree, "week1/work", executor, seed=index, seconds=60, process=Process(), timed=True)
                for tree, executor in zip((candidates[factor], candidates[0.0]), executors, strict=True)
            )
            contest = Contest(submission, reference, "reference", limit, "cpu")
            try:
                comparison = contest.run(lambda submission, draw: submission.call("work", draw.normal(96, 96)))
            except Unmet:  # accused of tampering with its clock
                yield factor, "too slow", 0
            else:
                yield factor, comparison.verdict(LIMIT), len(comparison.pairs)
        for executor in executors:
            executor.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("--judgements", type=int, default=1000, help="how many (default: 1000)")
    number = parser.parse_args().judgements
    counts: Counter[tuple[bool, float, str]] = Counter()
    pairs: Counter[bool] = Counter()
    seconds: dict[bool, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        candidates = trees(Path(folder))
        for busy in (False, True):
            started = time.monotonic()
            with load(busy):
                for factor, verdict, taken in tqdm(judge(number // 2, candidates), total=number // 2, disable=None):
                    counts[busy, factor, verdict] += 1
                    pairs[busy] += taken
            seconds[busy] = time.monotonic() - started
    text = report(number, counts, pairs, seconds)
    path = ROOT / "benchmarks" / machine_kind() / "calibration.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    print(text)
    return int(any(wrong(factor, verdict) for _, factor, verdict in counts))


def wrong(factor: float, verdict: str) -> bool:
    return verdict == ("too slow" if factor > 1 else "fast enough")


def report(
    number: int, counts: Counter[tuple[bool, float, str]], pairs: Counter[bool], seconds: dict[bool, float]
) -> str:
    verdicts = ("too slow", "inconclusive", "fast enough")
    lines = [
        f"# {number} judgements of known speeds",
        "",
        f"`python -m benchmarks.calibration` on {machine_kind()}, Python {platform.python_version()}, "
        f"torch {metadata.version('torch')}. The limit is {LIMIT:g} times the reference's speed; the implementations' "
        "speeds are given as factors of the limit.",
        "",
        f"| machine | factor of the limit | {' | '.join(verdicts)} |",
        "|---|---|---|---|---|",
    ]
    for busy, name in ((False, "idle"), (True, "every core busy")):
        for factor in FACTORS:
            row = " | ".join(str(counts[busy, factor, verdict]) for verdict in verdicts)
            lines.append(f"| {name} | {factor:g} | {row} |")
    lines.append("")
    for busy, name in ((False, "idle"), (True, "busy")):
        total = sum(count for (each, _, _), count in counts.items() if each == busy)
        inconclusive = sum(counts[busy, factor, "inconclusive"] for factor in FACTORS)
        false = sum(
            count for (each, factor, verdict), count in counts.items() if each == busy and wrong(factor, verdict)
        )
        lines.append(
            f"- {name}: {false} wrong verdicts, {inconclusive} inconclusive ({inconclusive / total:.1%}), "
            f"{pairs[busy] / total:.0f} pairs and {seconds[busy] / total:.2f} s a judgement"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
