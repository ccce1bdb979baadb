"""Grades hundreds of hand-ins one after another in one process: python -m benchmarks.soak [--hand-ins 500] [--seed N].

Six of ten are honest, a third attacks the grader, a tenth hangs; each is graded in the sandbox, on a few quick tests.
Afterwards nothing may be left of them: no file, no process, no change of the course, no growing memory; and an honest
hand-in earns what it earned before any other was graded.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.attacks.bank import Attack, all_attacks
from benchmarks.attacks.trial import PR_SET_CHILD_SUBREAPER, ROOT, copy_course, descendants, fingerprints, listening

TESTS = {
    "week1/self_attention": ["test_any_number_of_dimensions_may_stand_in_front", "test_lengths_and_widths_may_differ"],
    "week1/moe": ["test_renormalised_weights_sum_to_one", "test_one_expert_or_all_of_them"],
    "week1/transformer": ["test_sines_and_cosines_alternate", "test_an_odd_width_ends_with_a_sine"],
}
KINDS = "answers grader parent report word guessing total people residue packages"
SPOILT = {  # what students get wrong, as changes of the solution's text
    "week1/self_attention": [("dim=-1", "dim=-2"), ("-1)", "-2)"), ("sqrt", "exp")],
    "week1/moe": [("softmax", "sigmoid"), ("topk", "sort"), ("dim=-1", "dim=0")],
    "week1/transformer": [("10000", "1000"), ("sin()", "cos()"), ("10_000", "1_000")],
}
HANG = """

def {name}(*args, **kwargs):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
"""
FUNCTIONS = {
    "week1/self_attention": "scaled_dot_product_attention",
    "week1/moe": "route_top_k",
    "week1/transformer": "sinusoidal_positions",
}
SECONDS = 3  # a call's time limit
GROWTH_MB = 300


@dataclass(frozen=True)
class HandIn:
    kind: str  # "honest", "hostile", "hanging"
    name: str
    exercise: str
    tests: tuple[str, ...]
    source: str = ""
    attack: Attack | None = None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--hand-ins", type=int, default=500, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the choice and order of hand-ins")
    parser.add_argument("--kinds", default=KINDS, help=f"of attacks (default: {KINDS})")
    parser.add_argument("--sandbox", default="", help="bwrap, landlock or child (default: the strongest)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        sys.exit(soak(given.hand_ins, given.seed, given.kinds.split(), given.sandbox))
    with tempfile.TemporaryDirectory(prefix="soak-", dir="/var/tmp") as folder:
        course = Path(folder) / "course"
        copy_course(course, benchmarks=True)
        temporary = Path(folder) / "tmp"
        temporary.mkdir()
        again = [sys.executable, "-m", "benchmarks.soak", "--here", *sys.argv[1:]]
        sys.exit(subprocess.run(again, cwd=course, env={**os.environ, "TMPDIR": str(temporary)}).returncode)


def soak(number: int, seed: int, kinds: list[str], sandbox: str) -> int:
    """The exit status: 0 if nothing is left of any hand-in."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    isolate = "--isolate" + (sandbox and f"={sandbox}")
    honest, hostile, hanging = pool(kinds)
    before = fingerprints(ROOT)
    alone = {each: grade(each, isolate) for each in honest}
    files = set(listing())  # with what the grader keeps until it ends
    print(f"{len(honest)} honest hand-ins graded before all others; they earn {sorted(alone.values())}", flush=True)
    memory, begun, faults = memory_mb(), time.monotonic(), []
    for count, hand_in in enumerate(chosen(random.Random(seed), number, honest, hostile, hanging), 1):
        points = grade(hand_in, isolate)
        if hand_in.kind == "honest" and points != alone[hand_in]:
            faults.append(f"{hand_in.name} earned {points}, alone {alone[hand_in]}")
        faults += residue(hand_in.name, before, files)
        if count % 10 == 0 or count == number:
            each = (time.monotonic() - begun) / count
            print(f"{count} of {number}, {each:.1f} s each, {memory_mb()} MB, {len(faults)} faults", flush=True)
    if (grown := memory_mb() - memory) > GROWTH_MB:
        faults.append(f"the grader's process grew by {grown} MB")
    print("\n".join(faults) or f"no residue of {number} hand-ins; the process grew by {grown} MB")
    return 1 if faults else 0


def pool(kinds: list[str]) -> tuple[list[HandIn], list[HandIn], list[HandIn]]:
    """The honest, hostile and hanging hand-ins that are drawn from."""
    honest, hanging = [], []
    for exercise, tests in TESTS.items():
        solution = (ROOT / f"solutions/{exercise}.py").read_text("utf-8")
        texts = {"solution": solution}
        for style in sorted((ROOT / "tests/grading/styles").glob(f"*/{exercise}.py")):
            if "from ." not in (text := style.read_text("utf-8")):
                texts[style.parents[1].name] = text
        for old, new in SPOILT[exercise]:
            if old in solution:
                texts[f"{old} became {new}"] = solution.replace(old, new, 1)
        honest += [HandIn("honest", f"{exercise}: {name}", exercise, tuple(tests), texts[name]) for name in texts]
        source = solution + HANG.format(name=FUNCTIONS[exercise])
        hanging.append(HandIn("hanging", f"{exercise}: hangs", exercise, tuple(tests[:1]), source))
    hostile = [
        HandIn("hostile", attack.name, attack.exercise, tuple(attack.tests), attack=attack)
        for attack in all_attacks()
        if attack.kind in kinds and attack.exercise in TESTS and not attack.options
    ]
    return honest, hostile, hanging


def chosen(
    random_numbers: random.Random, number: int, honest: list[HandIn], hostile: list[HandIn], hanging: list[HandIn]
) -> Iterator[HandIn]:
    """A third hostile, a tenth hanging, the rest honest, in a random order."""
    counts = {"hostile": number // 3, "hanging": number // 10}
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    kinds += ["honest"] * (number - len(kinds))
    random_numbers.shuffle(kinds)
    groups = {"honest": honest, "hostile": hostile, "hanging": hanging}
    return (random_numbers.choice(groups[kind]) for kind in kinds)


class ShortLimit:
    """A pytest plugin: no call takes long."""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            item.add_marker(pytest.mark.limit(seconds=SECONDS))


def grade(hand_in: HandIn, isolate: str) -> float:
    """The points of one hand-in, graded by pytest in this process as from the command line."""
    with tempfile.TemporaryDirectory(prefix="hand-in-") as folder, listening() as (port, _):
        tree, others = Path(folder) / "hand-in", Path(folder) / "others"
        (others / "home").mkdir(parents=True)
        if hand_in.attack is None:
            path = tree / f"{hand_in.exercise}.py"
            path.parent.mkdir(parents=True)
            path.write_text(hand_in.source, "utf-8")
        else:
            names = {"COURSE": str(ROOT), "OTHERS": str(others), "SITE": str(others), "PORT": str(port)}
            hand_in.attack.write(tree, names)
        report = Path(folder) / "report"
        file = f"tests/{hand_in.exercise.replace('/', '/test_')}.py"
        arguments = ["-q", "-p", "no:cacheprovider", f"--impl={tree}", isolate, f"--report={report}"]
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            pytest.main([*arguments, *(f"{file}::{name}" for name in hand_in.tests)], plugins=[ShortLimit()])
        try:
            records = json.loads((report / "grade.json").read_text("utf-8"))["records"]
        except (OSError, ValueError):
            return -1.0
        return sum(record["points"] for record in records)


def residue(name: str, before: dict[str, str], files: set[str]) -> list[str]:
    """What a hand-in has left; the course and files are put in order again, so that each is blamed for its own."""
    found = []
    if (now := fingerprints(ROOT)) != before:
        changed = sorted(key for key in now.keys() | before.keys() if now.get(key) != before.get(key))
        found.append(f"{name} changed the course: {', '.join(changed[:3])}")
        before.clear()
        before.update(now)
    for path in sorted(set(listing()) - files):
        found.append(f"{name} left {path}")
        shutil.rmtree(path, ignore_errors=True)
        Path(path).unlink(missing_ok=True)
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(f"{name} left a process, {pid}")
                os.kill(pid, 9)
    return found


def listing() -> list[str]:
    """What lies where all programs put temporary files, as far as it is the grader's or an attack's."""
    own = [str(path) for path in Path(tempfile.gettempdir()).iterdir() if not path.name.startswith("torchinductor")]
    marked = [
        str(path) for folder in ("/tmp", "/dev/shm", "/var/tmp") for path in Path(folder).glob("whetstone_attack*")
    ]
    return own + marked


def memory_mb() -> int:
    """This process's own memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("RssAnon:"))


if __name__ == "__main__":
    main()
