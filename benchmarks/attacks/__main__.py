"""Runs the attacks against the grader and draws their table: python -m benchmarks.attacks.

Each attack is graded like a hand-in, against a few tests, in a copy of the course. It succeeds if it earns a point that
no one is asked to review, or if it harms anything: the course, another student's files, the report, the machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict

from benchmarks.attacks.bank import HERE, KINDS, Attack, all_attacks
from benchmarks.attacks.page import write_table
from benchmarks.attacks.trial import Outcome, begin, points_offered, try_attack
from grading.run.sandbox import strongest

RESULTS = HERE / "results.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks", description=__doc__)
    parser.add_argument("--kind", choices=[*KINDS], help="attacks of one kind only")
    parser.add_argument("--only", metavar="NAME", help="attacks with this in their name only")
    parser.add_argument("--sandbox", default="", help="bwrap, landlock, child or none (default: the strongest)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="this many at a time")
    parser.add_argument("--record", action="store_true", help="keep the outcomes and draw the table in docs/trust.md")
    given = parser.parse_args()
    chosen = [each for each in all_attacks() if given.kind in (None, each.kind) and (given.only or "") in each.name]
    isolate = ["--no-isolate"] if given.sandbox == "none" else ["--isolate" + (given.sandbox and f"={given.sandbox}")]
    kept = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    outcomes = []
    for outcome in run(chosen, isolate, given.jobs):
        outcomes.append(outcome)
        why = "; ".join(outcome.harms or outcome.flags) or outcome.reason
        points = f"{outcome.points:g}/{outcome.max_points:g}"
        print(f"{outcome.verdict:8} {points:>7} {outcome.seconds:4.0f} s  {outcome.attack}: {why[:150]}", flush=True)
        if given.record:
            kept.setdefault(outcome.sandbox or given.sandbox or strongest(), {})[outcome.attack] = asdict(outcome)
            RESULTS.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", "utf-8")
            write_table(kept)
    through = [outcome for outcome in outcomes if not outcome.held]
    print(f"{len(outcomes)} attacks and controls, {len(through)} got through or were wronged")
    sys.exit(bool(through))


def run(attacks: Iterable[Attack], isolate: list[str], jobs: int) -> Iterator[Outcome]:
    offered = points_offered()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=begin, initargs=(isolate, offered)) as workers:
        yield from workers.map(try_attack, attacks)


if __name__ == "__main__":
    main()
