"""One attack against one run of the grader, in a copy of the course; and whatever it harmed."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.attacks.bank import Attack

ROOT = Path(__file__).parents[2]
SITE = Path(sysconfig.get_path("purelib"))
MARK = "whetstone_attack"  # in the name of whatever an attack leaves outside of the course
SECONDS = 150.0  # for one run, on a busy machine
IMPORTS_MB = 900  # what the interpreter and PyTorch take, beyond the limit of --memory-limit
PROCESSES = 400
IGNORED = {".hypothesis", ".pytest_cache", ".benchmarks"}
CACHES = {".cache", ".config", ".local", ".triton"}  # of a home folder, which libraries fill
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
COMMAND = re.compile(r"^\s*(::[a-z-]+|##\[)", re.MULTILINE)
PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Outcome:
    """What an attack came to."""

    attack: str
    sandbox: str = ""
    points: float = 0.0  # earned
    unflagged: float = 0.0  # earned in tests that no one is asked to review
    max_points: float = 0.0
    flags: list[str] = field(default_factory=list)
    harms: list[str] = field(default_factory=list)
    status: int | None = None
    reason: str = ""  # of the first test that it lost
    seconds: float = 0.0
    honest: bool | None = None

    @property
    def verdict(self) -> str:
        """`harmed`, `earned`, `flagged` or `blocked`; of a control, `right` or `wronged`."""
        if self.honest is not None:
            due = self.max_points if self.honest else 0.0
            return "right" if self.points == due and not self.flags and not self.harms else "wronged"
        if self.harms:
            return "harmed"
        if self.unflagged:
            return "earned"
        return "flagged" if self.points else "blocked"

    @property
    def held(self) -> bool:
        return self.verdict in ("flagged", "blocked", "right")


class Trials:
    """Attacks one after another against a copy of the course, which is as before for each of them."""

    def __init__(self, isolate: list[str], offered: dict[str, float]) -> None:
        self.isolate, self.offered = isolate, offered  # points by the record's id
        self._folder = tempfile.TemporaryDirectory(prefix="attacks-", dir="/var/tmp", ignore_cleanup_errors=True)
        self.place = Path(self._folder.name)
        self.place.chmod(0o755)
        self.course = self.place / "course"
        copy_course(self.course)
        self.before = fingerprints(self.course)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it, and so would the grader
        if sys.platform == "linux":  # orphans become this process's children, and can be seen
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def close(self) -> None:
        self._folder.cleanup()

    def run(self, attack: Attack) -> Outcome:
        outcome = Outcome(attack.name, honest=attack.honest)
        scene = self.place / "scene"
        shutil.rmtree(scene, ignore_errors=True)
        self.children_before = set(children_of(os.getpid()))
        with listening() as (port, heard):
            places = {
                "COURSE": str(self.course),
                "OTHERS": str(scene / "others"),
                "SITE": str(SITE),
                "PORT": str(port),
            }
            self._lay_out(scene, attack, places)
            others = fingerprints(scene / "others")
            self._grade(outcome, scene, attack)
            if heard:
                outcome.harms.append("something outside of the sandbox was reached over the network")
        if fingerprints(scene / "others") != others:
            outcome.harms.append("another student's files, or the machine's, were changed")
        self._look_at_the_course(outcome)
        self._look_for_residue(outcome, scene)
        return outcome

    def _lay_out(self, scene: Path, attack: Attack, places: dict[str, str]) -> None:
        """The hand-in, and around it what it must not reach."""
        self.secret = f"sk-{secrets.token_hex(12)}"
        others = scene / "others"
        shutil.copytree(self.course / "solutions", others / "classmate")
        for name, text in {
            "classmate/grade.json": '{"points": 1}',
            "home/.netrc": f"machine example.org password {self.secret}",
            "summary.md": "",
            "output": "",
        }.items():
            (others / name).parent.mkdir(exist_ok=True)
            (others / name).write_text(text)
        (scene / "tmp").mkdir()
        attack.write(scene / "hand-in", places)

    def _grade(self, outcome: Outcome, scene: Path, attack: Attack) -> None:
        file = f"tests/{attack.exercise.replace('/', '/test_')}.py"
        report = scene / "report"
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--impl", str(scene / "hand-in")),
            *self.isolate,
            *("--grading-seed", str(secrets.randbelow(2**31)), "--report", str(report), *attack.options),
            *(f"{file}::{name}" for name in attack.tests),
        ]
        begun = time.monotonic()
        with open(scene / "log", "ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.course,
                env=self._environment(scene),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            watch = Watch(process.pid)
            try:
                outcome.status = process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                outcome.harms.append(f"the run did not end within {SECONDS:g} s")
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            watch.stop()
        outcome.seconds = time.monotonic() - begun
        if attack.kind == "resources":
            outcome.harms += watch.harms(attack)
        self._look_at_the_report(outcome, attack, report, (scene / "log").read_text("utf-8", "replace"))

    def _environment(self, scene: Path) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
        return kept | {
            "PYTHONDONTWRITEBYTECODE": "1",
            "NO_COLOR": "1",
            "OMP_NUM_THREADS": "1",
            "HOME": str(scene / "others/home"),
            "TMPDIR": str(scene / "tmp"),
            "OPENAI_API_KEY": self.secret,
            "GITHUB_STEP_SUMMARY": str(scene / "others/summary.md"),
            "GITHUB_OUTPUT": str(scene / "others/output"),
        }

    def _look_at_the_report(self, outcome: Outcome, attack: Attack, report: Path, log: str) -> None:
        try:
            grade = json.loads((report / "grade.json").read_text("utf-8"))
            records = grade["records"]
        except (OSError, ValueError, KeyError) as error:
            ending = log.strip().splitlines()[-1:] or [""]
            outcome.harms.append(f"no report ({type(error).__name__}, exit status {outcome.status}: {ending[0][:120]})")
            return
        outcome.sandbox = str(grade.get("identity", {}).get("sandbox") or grade.get("sandbox") or "")
        outcome.points = sum(record["points"] for record in records)
        outcome.unflagged = sum(record["points"] for record in records if not record.get("review"))
        outcome.flags = sorted({finding for record in records for finding in record.get("review", ())})
        outcome.reason = next((record["reason"] for record in records if record["reason"]), "")
        wanted = {
            name: points
            for name, points in self.offered.items()
            if name.partition("::")[0] == attack.exercise and name.partition("::")[2].partition("[")[0] in attack.tests
        }
        outcome.max_points = sum(wanted.values())
        counted = sum(r["max_points"] for r in records if r["verdict"] in ("passed", "failed", "not started"))
        if {record["id"] for record in records} != set(wanted) or counted != outcome.max_points:
            odd = sorted({r["verdict"] for r in records} - {"passed", "failed", "not started"})
            lost = f"{', '.join(odd)}: {outcome.reason[:160]}" if odd else "tests are missing"
            outcome.harms.append(f"the total is {counted:g} instead of {outcome.max_points:g} ({lost})")
        if outcome.status != (0 if outcome.points == outcome.max_points else 1):
            outcome.harms.append(f"the exit status is {outcome.status}")
        outcome.harms += unclean(log, grade, report)
        texts = [path.read_text("utf-8", "replace") for path in report.rglob("*") if path.is_file()]
        if any(self.secret in text for text in [log, *texts]):
            outcome.harms.append("a secret of the machine was read")

    def _look_at_the_course(self, outcome: Outcome) -> None:
        after = fingerprints(self.course)
        changed = sorted(name for name in self.before.keys() | after.keys() if self.before.get(name) != after.get(name))
        if not changed:
            return
        outcome.harms.append(f"the course was changed: {', '.join(changed[:3])}")
        shutil.rmtree(self.course)
        copy_course(self.course)
        self.before = fingerprints(self.course)

    def _look_for_residue(self, outcome: Outcome, scene: Path) -> None:
        time.sleep(0.2)
        new = set(children_of(os.getpid())) - self.children_before
        if alive := [pid for pid in new if not _reaped(pid)]:
            outcome.harms.append(f"{len(alive)} process(es) outlived the run")
            for pid in alive:
                for each in [*descendants(pid), pid]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(each, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
        left = [path for path in (scene / "tmp").iterdir() if not path.name.startswith(("torchinductor", "hypothesis"))]
        for folder in (Path("/tmp"), Path("/dev/shm"), Path("/var/tmp"), SITE):
            left += folder.glob(f"{MARK}*")
        if left:
            outcome.harms.append(f"files were left: {', '.join(path.name for path in left[:3])}")
        for path in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


_trials: Trials | None = None  # of a worker process


def begin(isolate: list[str], offered: dict[str, float]) -> None:
    global _trials
    _trials = Trials(isolate, offered)


def try_attack(attack: Attack) -> Outcome:
    assert _trials is not None
    return _trials.run(attack)


def unclean(log: str, grade: dict[str, Any], report: Path) -> list[str]:
    """What a person's terminal, browser or CI system would take for something else than text."""
    found = []
    if CONTROL.search(log):
        found.append("the terminal got control characters")
    if COMMAND.search(log):
        found.append("the log has lines that a CI system takes for commands")
    if any(CONTROL.search(text) for text in strings(grade)):
        found.append("grade.json holds control characters")
    pages = {name: (report / name) for name in ("index.html", "summary.md")}
    for name, path in pages.items():
        if path.exists() and CONTROL.search(text := path.read_text("utf-8", "replace")):
            found.append(f"{name} holds control characters")
        if name == "index.html" and path.exists() and f"<{MARK}" in text:
            found.append("index.html holds foreign elements")
    return found


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


# --- the course ---


def copy_course(target: Path, benchmarks: bool = False) -> None:
    """What git would commit, as a repository of its own, with or without the attacks themselves."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file() and (benchmarks or not name.startswith("benchmarks/")):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "--all"], ["commit", "-q", "-m", "course"]):
        subprocess.run([*git, *command], cwd=target, check=True, capture_output=True)


def fingerprints(root: Path) -> dict[str, str]:
    """A hash of every file by its path; links are not followed."""
    found = {}
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in IGNORED | CACHES]
        for name in [*files, *(each for each in folders if os.path.islink(os.path.join(folder, each)))]:
            path = os.path.join(folder, name)
            key = os.path.relpath(path, root)
            if key in (".git/index", ".git/index.lock"):  # which git itself refreshes
                continue
            if os.path.islink(path) or not os.path.isfile(path):
                found[key] = os.readlink(path) if os.path.islink(path) else "special"
                continue
            with open(path, "rb") as file:
                found[key] = f"{os.fstat(file.fileno()).st_mode:o} {hashlib.file_digest(file, 'sha256').hexdigest()}"
    return found


def points_offered(course: Path = ROOT) -> dict[str, float]:
    """The points of every graded test, by its record's id: stubs are graded without running anything."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "exercises", "--report", folder]
        subprocess.run(command, cwd=course, capture_output=True, check=False)
        records = json.loads((Path(folder) / "grade.json").read_text("utf-8"))["records"]
    return {record["id"]: record["max_points"] for record in records}


# --- the machine ---


@contextlib.contextmanager
def listening() -> Iterator[tuple[int, list[str]]]:
    """A port of this machine, TCP and UDP, and whatever reached it."""
    heard: list[str] = []
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        port = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", port))
        tcp.listen()
        for each in (tcp, udp):
            each.settimeout(0)
        yield port, heard
        with contextlib.suppress(OSError):
            tcp.accept()[0].close()
            heard.append("tcp")
        with contextlib.suppress(OSError):
            udp.recvfrom(64)
            heard.append("udp")


def children_of(pid: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(folder.name))
    return found


def descendants(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found: list[int] = []
    wave = {pid}
    while wave:
        wave = {child for child, parent in parents.items() if parent in wave}
        found += wave
    return found


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False


class Watch:
    """The memory and processes of a run, looked at while it goes on."""

    def __init__(self, pid: int) -> None:
        self.pid, self.parent_mb, self.child_mb, self.processes = pid, 0, 0, 0
        self.shared_before = _shared_mb()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            parent, _ = _memory_mb(self.pid)
            below = descendants(self.pid)
            private = sum(sum(_memory_mb(each)) for each in below)
            self.parent_mb = max(self.parent_mb, parent)
            self.child_mb = max(self.child_mb, private + max(0, _shared_mb() - self.shared_before))
            self.processes = max(self.processes, len(below))

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def harms(self, attack: Attack) -> list[str]:
        limit = int(attack.options[attack.options.index("--memory-limit") + 1]) if attack.options else 8192
        found = []
        if self.child_mb > limit + IMPORTS_MB:
            found.append(f"{self.child_mb} MB were taken under a limit of {limit} MB")
        if self.parent_mb > 1500:
            found.append(f"the grader's process grew to {self.parent_mb} MB")
        if self.processes > PROCESSES:
            found.append(f"there were {self.processes} processes")
        return found


def _memory_mb(pid: int) -> tuple[int, int]:
    """Anonymous and file-backed memory; what is shared is counted for the whole machine."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0, 0
    sizes = {line.split()[0]: int(line.split()[1]) >> 10 for line in text.splitlines() if line.startswith("Rss")}
    return sizes.get("RssAnon:", 0), sizes.get("RssFile:", 0) // 4  # mapped libraries are shared by processes


def _shared_mb() -> int:
    text = Path("/proc/meminfo").read_text()
    return next(int(line.split()[1]) >> 10 for line in text.splitlines() if line.startswith("Shmem:"))
