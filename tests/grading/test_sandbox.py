"""`--isolate`: what a submission cannot reach, use up or leave behind, in each kind of sandbox that works here."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from grading.course.layout import Course
from grading.course.trees import Tree
from grading.data.request import Request
from grading.data.result import Result
from grading.run import quota
from grading.run.cpu import cpu_seconds
from grading.run.executors import Isolated
from grading.run.sandbox import DOES_NOT_STOP, KINDS, Sandbox, missing, strongest
from tests.grading.conftest import ROOT, environment, write_hand_in

STRONG = ("bwrap", "landlock")
RUN = """
import os, subprocess, sys

def run(code):
    names = {"os": os, "subprocess": subprocess, "sys": sys}
    exec(code, names)
    return names.get("found")
"""


def works(kind: str) -> None:
    if why := missing(kind):
        pytest.skip(f"{kind}: {why}")


class Sealed:
    """A submission in a sandbox that runs any code."""

    def __init__(self, folder: Path, kind: str, memory_mb: int = 3000) -> None:
        course = Course(ROOT)
        write_hand_in(folder, probe=RUN)
        self.tree = Tree("hand-in", (folder,))
        self.executor = Isolated(Sandbox(kind, course.material, course.private_roots, memory_mb))

    def run(self, code: str, seconds: float = 20.0) -> Result:
        request = Request("run", args=(code,), seconds=seconds)
        return self.executor.run(request, self.tree, "week1/probe")[0]

    def found(self, code: str) -> object:
        result = self.run(code)
        assert result.trouble is None, result.trouble
        return result.output


@pytest.fixture(scope="module", params=STRONG)
def sealed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sealed]:
    works(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MY_SECRET", "do not tell")
        patch.setenv("GITHUB_STEP_SUMMARY", "/tmp/summary.md")
        made = Sealed(tmp_path_factory.mktemp("hand-in"), request.param)
        yield made
        made.executor.close()


ANSWERS = {
    "by another program": "found = subprocess.run(['cat', PATH], capture_output=True).stdout",
    "by the C library": (
        "import ctypes\nfd = ctypes.CDLL(None).open(PATH.encode(), 0)\nfound = os.read(fd, 9) if fd >= 0 else b''"
    ),
    "from a folder that is open": (
        "folder, name = os.path.split(PATH)\ntry:\n    fd = os.open(folder, os.O_RDONLY)\n"
        "    found = os.read(os.open(name, os.O_RDONLY, dir_fd=fd), 9)\nexcept OSError:\n    found = b''"
    ),
    "through a link": (
        "os.symlink(PATH, 'link')\nfound = subprocess.run(['head', 'link'], capture_output=True).stdout\n"
        "os.unlink('link')"
    ),
    "through /proc": (
        "found = subprocess.run(['sh', '-c', 'cat /proc/*/root' + PATH + ' /proc/self/cwd/../..' + PATH], "
        "capture_output=True).stdout"
    ),
    "after Python's checks were replaced": (
        "os.path.realpath = lambda path, **_: '/x'\ntry:\n    found = open(PATH, 'rb').read(9)\nexcept OSError:\n"
        "    found = b''"
    ),
}


@pytest.mark.parametrize(
    "file", ["solutions/week1/moe.py", "tests/oracles/experts.py", "tests/mistakes/week1/moe.toml"]
)
@pytest.mark.parametrize("way", ANSWERS)
def test_the_answers_cannot_be_read(sealed, way, file):
    assert (ROOT / file).is_file()
    assert sealed.found(f"PATH = {str(ROOT / file)!r}\n{ANSWERS[way]}") == b""


def test_what_the_probes_do_finds_files_that_are_there(sealed):
    """The probes above would say nothing if they could read nothing at all."""
    own = str(sealed.tree.file("week1/probe"))
    for way in ("by another program", "by the C library", "from a folder that is open", "through a link"):
        assert sealed.found(f"PATH = {own!r}\n{ANSWERS[way]}"), way


@pytest.mark.parametrize(
    "path",
    [".git/HEAD", "pyproject.toml", "grading/judge/answer.py", "grading/session/verdict.py", "exercises/README.md"],
)
def test_nor_anything_else_of_the_course(sealed, path):
    code = f"found = subprocess.run(['cat', {str(ROOT / path)!r}], capture_output=True).stdout"
    assert sealed.found(code) == b""


@pytest.mark.parametrize(
    "path",
    [
        ROOT / "grading/run/pipe.py",
        ROOT / "grading/judge/answer.py",
        ROOT / "grading/new.py",
        ROOT / "tests/week1/test_moe.py",
        Path(sys.prefix) / "new.pth",
        Path.home() / ".bashrc",
        Path("/etc/hosts"),
        Path("/new"),
    ],
    ids=str,
)
def test_nothing_can_be_written_but_the_private_folder(sealed, path):
    before = path.read_bytes() if path.is_file() else None
    code = (
        f"path = {str(path)!r}\nsubprocess.run(['sh', '-c', 'echo x >> ' + path], capture_output=True)\n"
        "try:\n    open(path, 'a').write('x')\n    found = 'written'\nexcept OSError:\n    found = 'refused'"
    )
    assert sealed.found(code) == "refused"
    assert (path.read_bytes() if path.is_file() else None) == before
    assert sealed.found("open('note', 'w').write('x')\nfound = open('note').read()") == "x"


def test_the_hand_in_itself_cannot_be_changed(sealed):
    own = str(sealed.tree.file("week1/probe"))
    assert sealed.found(f"found = subprocess.run(['sh', '-c', 'echo x >> {own}'], capture_output=True).returncode") != 0


def test_the_environment_holds_no_secret(sealed):
    assert sealed.found("found = [os.environ.get(name) for name in ('MY_SECRET', 'GITHUB_STEP_SUMMARY')]") == [None] * 2
    assert sealed.found("found = os.environ['HOME'] == os.getcwd()")


def test_no_process_of_others_can_be_reached(sealed):
    parent = os.getpid()
    seen = sealed.found(
        "import ctypes, signal\nlibc = ctypes.CDLL(None)\n"
        f"found = [libc.kill({parent}, 0), libc.kill(-1, 0) if False else -1, libc.ptrace(16, {parent}, 0, 0)]"
    )
    assert seen == [-1, -1, -1]
    environ = f"try:\n    found = open('/proc/{parent}/environ', 'rb').read(9)\nexcept OSError:\n    found = b''"
    assert sealed.found(environ) == b""
    memory = f"try:\n    open('/proc/{parent}/mem', 'r+b')\n    found = True\nexcept OSError:\n    found = False"
    assert sealed.found(memory) is False


TCP = """
import json
code = '''
import socket
try:
    socket.create_connection(("127.0.0.1", {port}), 2)
    print("connected")
except OSError:
    pass
'''
found = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True).stdout
"""


def test_there_is_no_network(sealed):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        assert sealed.found(TCP.format(port=server.getsockname()[1])) == ""


def test_bubblewrap_also_stops_datagrams_and_shows_no_processes(tmp_path):
    works("bwrap")
    made = Sealed(tmp_path, "bwrap")
    send = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))"
    code = f"found = subprocess.run([sys.executable, '-S', '-c', {send!r}], capture_output=True).returncode"
    assert made.found(code) != 0
    assert made.found("found = sum(name.isdigit() for name in os.listdir('/proc'))") < 6
    assert made.found("found = os.getuid()") == 65534
    chmod = "try:\n    os.chmod('/dev/full', 0o666)\n    found = 'changed'\nexcept OSError:\n    found = 'refused'"
    assert made.found(chmod) == "refused"
    assert made.found("found = os.access('/proc/sys/kernel/core_pattern', os.W_OK)") is False
    assert made.found("found = subprocess.run(['unshare', '-Ur', 'true'], capture_output=True).returncode") != 0
    made.executor.close()


DAEMON = """
import ctypes, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3):
            os.close(fd)
        ctypes.CDLL(None).prctl(15, b"straggler", 0, 0, 0)  # its name
        time.sleep(60)
    os._exit(0)
os.wait()
time.sleep(0.2)
found = True
"""


def stragglers() -> list[int]:
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if comm.read_text().strip() == "straggler":
                found.append(int(comm.parent.name))
    return found


FLOODS = {
    "shared memory": (
        "import mmap\nheld = mmap.mmap(-1, 1200 << 20)\nfor at in range(0, 1200 << 20, 4096):\n    held[at] = 1"
    ),
    "files in memory": (
        "import mmap\nheld = []\nfor name in 'abc':\n    fd = os.memfd_create(name)\n    os.truncate(fd, 500 << 20)\n"
        "    held.append(mmap.mmap(fd, 500 << 20))\n    for at in range(0, 500 << 20, 4096):\n        held[-1][at] = 1"
    ),
    "many processes": (
        "import time\nfor _ in range(8):\n    if os.fork() == 0:\n        held = b'x' * (150 << 20)\n"
        "        time.sleep(30)\ntime.sleep(10)"
    ),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("way", ["cgroup", "watch"])
@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_limited_however_it_is_used_and_nothing_survives(tmp_path, monkeypatch, kind, way):
    works(kind)
    if way == "cgroup" and not quota.has_cgroups():
        pytest.skip("no cgroup can be made here")
    if way == "watch":
        monkeypatch.setattr("grading.run.process.Cgroup", no_cgroup)
    made = Sealed(tmp_path, kind, memory_mb=1000)
    for flood, code in FLOODS.items():
        trouble = made.run(code).trouble
        assert trouble is not None, flood
        assert "ran out of memory (the limit is 1000 MB" in trouble.message, (flood, trouble.message)
    made.found(DAEMON)
    assert stragglers() or kind == "bwrap"
    made.executor.close()
    deadline = time.monotonic() + 5
    while stragglers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not stragglers()


def no_cgroup(memory_mb: int) -> None:
    raise OSError("none today")


@pytest.fixture(params=KINDS)
def any_kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sealed]:
    works(request.param)
    made = Sealed(tmp_path / "hand-in", request.param)
    yield made
    made.executor.close()


def test_of_what_is_lent_only_what_is_built_on_is_there(any_kind, tmp_path):
    lender = write_hand_in(tmp_path / "lender", base="VALUE = 1\n", probe="ANSWER = 2\n", other="ANSWER = 3\n")
    write_hand_in(any_kind.tree.roots[0], probe=RUN + "from .base import VALUE\n")
    any_kind.tree = any_kind.tree.lent("week1/probe", Tree("solutions", (lender,)))
    any_kind.executor.sandbox = replace(any_kind.executor.sandbox, forbidden=(lender,))
    there = [path.name for root in any_kind.tree.roots for path in root.rglob("*.py")]
    assert sorted(there) == ["base.py", "probe.py"]
    assert any_kind.found("from importlib import import_module\nfound = 1") == 1
    code = f"try:\n    found = open({str(lender / 'week1/other.py')!r}).read()\nexcept OSError:\n    found = ''"
    assert any_kind.found(code) == ""


def test_the_history_of_a_hand_in_is_not_there(sealed, tmp_path):
    write_hand_in(tmp_path, probe=RUN)
    (tmp_path / ".git").mkdir()
    (tmp_path / "data.txt").write_text("data", "utf-8")
    tree = Tree("hand-in", (tmp_path,))
    (tmp_path / ".git/config").write_text("secret", "utf-8")
    for name, text in (("data.txt", "data"), (".git/config", "")):
        code = f"found = subprocess.run(['cat', {str(tmp_path / name)!r}], capture_output=True, text=True).stdout"
        assert sealed.executor.run(Request("run", args=(code,)), tree, "week1/probe")[0].output == text


def test_a_folder_that_a_test_hands_over_can_be_read(any_kind, tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    (given / "note").write_text("for you", "utf-8")
    write_hand_in(any_kind.tree.roots[0], probe="def read(folder):\n    return open(folder + '/note').read()\n")
    result, _ = any_kind.executor.run(Request("read", args=(str(given),)), any_kind.tree, "week1/probe")
    assert result.output == "for you"


def test_the_model_is_reached_and_no_other_server(any_kind):
    import socket

    from grading.ask.llm import ScriptedModel, say

    model = ScriptedModel()
    model.script(say("hello"), say("again"))
    ask = """
import json, urllib.request
def ask(url):
    body = json.dumps({"model": "scripted", "messages": [{"role": "user", "content": "?"}]}).encode()
    request = urllib.request.Request(url + "/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]
"""
    code = f"{ask}\nfound = [ask({model.url!r}), ask({model.url!r})]"
    model.begin()
    request = Request("run", args=(code,), model=model)
    result, _ = any_kind.executor.run(request, any_kind.tree, "week1/probe")
    assert result.trouble is None, result.trouble
    assert result.output == ["hello", "again"]
    if any_kind.executor.sandbox.kind != "child":
        with socket.create_server(("127.0.0.1", 0)) as server:
            assert any_kind.found(TCP.format(port=server.getsockname()[1])) == ""


ENDS = {
    "ctypes.string_at(0)": "the process was ended by SIGSEGV",
    "ctypes.CDLL(None).abort()": "the process was ended by SIGABRT",
    "ctypes.CDLL(None)._exit(7)": "the process exited with status 7",
}


def test_how_a_process_ended_is_told(any_kind):
    for code, message in ENDS.items():
        trouble = any_kind.run(f"import ctypes\n{code}").trouble
        assert trouble is not None and message in trouble.message


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not tell the time of a process")
def test_cpu_time_counts_what_runs_in_a_sandbox(any_kind):
    any_kind.found("found = 1")
    before = cpu_seconds()
    burnt = any_kind.found("import time\nwhile time.process_time() < 2.5:\n    pass\nfound = time.process_time()")
    assert isinstance(burnt, float)
    running = cpu_seconds() - before
    any_kind.executor.close()
    ended = cpu_seconds() - before
    assert 0 < running <= ended + 0.1
    assert ended - running < 0.3  # nothing is counted only once the child has ended


LEFT_BEHIND = """
import ctypes, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.chdir('/')
        os.closerange(0, 3)
        code = 'import time\\ntime.sleep(60)'
        os.execve(sys.executable, ['straggling-python', '-I', '-S', '-c', code], {})
    os._exit(0)
os.wait()
time.sleep(0.3)
found = True
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_nothing_survives_without_a_cgroup_either(any_kind, monkeypatch):
    monkeypatch.setattr("grading.run.process.Cgroup", no_cgroup)
    assert any_kind.found(LEFT_BEHIND)
    assert straggling_pythons()
    any_kind.executor.close()
    deadline = time.monotonic() + 5
    while straggling_pythons() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not straggling_pythons()


def straggling_pythons() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(b"straggling-python"):
                found.append(path.parent.name)
    return found


BOMB = """
import time
for _ in range(3000):
    try:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
    except OSError:
        break
else:
    found = 'all were started'
time.sleep(0.3)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits processes on Linux alone")
@pytest.mark.parametrize("way", ["cgroup", "watch"])
def test_processes_are_limited(any_kind, monkeypatch, way):
    if way == "cgroup" and not quota.has_cgroups():
        pytest.skip("no cgroup can be made here")
    if way == "watch":
        monkeypatch.setattr("grading.run.process.Cgroup", no_cgroup)
    result = any_kind.run(BOMB)
    assert result.output is None
    assert result.trouble is None or "processes" in result.trouble.message or "memory" in result.trouble.message


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits disk on Linux alone")
def test_disk_is_limited(any_kind, monkeypatch):
    monkeypatch.setattr("grading.run.quota.SCRATCH_MB", 64)
    monkeypatch.setattr("grading.run.sandbox.SCRATCH_MB", 64)
    code = (
        "import time\nfor number in range(40):\n    with open(f'file{number}', 'wb') as file:\n"
        "        file.write(bytes(4 << 20))\n    time.sleep(0.02)\ntime.sleep(1)\nfound = 'all was written'"
    )
    result = any_kind.run(code)
    assert result.output is None
    assert result.trouble is not None
    assert "wrote more than" in result.trouble.message or "No space left" in result.trouble.message


REPLACING = {
    "a function of the grader's": (
        "from grading.run import counters\ncounters.Counts.figures = lambda self: {}",
        "Counts.figures",
    ),
    "the code inside one": (
        "from grading.run import observer\nobserver._snapshot.__code__ = (lambda output: output).__code__",
        "grading.run.observer._snapshot",
    ),
    "a class": ("from grading.run import stopwatch\nstopwatch._CpuStopwatch = None", "stopwatch._CpuStopwatch"),
    "a clock": ("import time\ntime.perf_counter = lambda: 0.0", "time.perf_counter"),
    "a clock by the name that the stopwatch uses": (
        "from grading.run import stopwatch\nstopwatch.perf_counter_ns = lambda: 0",
        "stopwatch.perf_counter_ns",
    ),
    "a module in the observer": ("from grading.run import observer\nobserver.torch = None", "observer.torch"),
    "what tells whether inputs are unchanged": ("import torch\ntorch.equal = lambda *_: True", "torch.equal"),
    "what tells whether memory is shared": (
        "import torch\ntorch.Tensor.untyped_storage = lambda self: None",
        "Tensor.untyped_storage",
    ),
    "how results are sent": ("import json\njson.dumps = lambda *_: '{}'", "json.dumps"),
}


@pytest.mark.parametrize("what", REPLACING)
def test_replacing_what_observes_costs_the_test_and_no_other(sealed, what):
    code, name = REPLACING[what]
    trouble = sealed.run(f"{code}\nfound = 1").trouble
    assert trouble is not None and "replaced what observes it" in trouble.message and name in trouble.message
    assert sealed.found("found = 1") == 1


def test_a_hand_in_by_path_is_isolated_and_the_header_says_how(toy, run_pytest):
    from tests.grading.test_students import SOLUTION

    hand_in = str(write_hand_in(toy.parent / "submission", mean=SOLUTION))
    listing = [sys.executable, "-m", "pytest", "exercises", "--collect-only", "--impl", hand_in]
    for more, words in (([], f"in a sandbox ({strongest()})"), (["--no-isolate"], "in this process")):
        run = subprocess.run([*listing, *more], cwd=toy, env=environment(), capture_output=True, text=True, timeout=120)
        assert words in run.stdout


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--isolate=strong"], "--isolate=strong: give one of bwrap, landlock, child"),
        (["--isolate", "--no-isolate"], "--isolate and --no-isolate: give one of them"),
        (["--isolate", "-s"], "--isolate, where no debugger and no terminal reach it"),
    ],
)
def test_what_does_not_go_together_is_refused(toy, run_pytest, options, sentence):
    run = run_pytest(toy, "exercises", *options)
    assert run.status == 4
    assert sentence in " ".join(run.text.split())


def test_a_kind_that_is_not_there_is_refused(toy, run_pytest, monkeypatch):
    monkeypatch.setenv("PATH", str(toy))  # without bwrap
    run = run_pytest(toy, "exercises", "--isolate=bwrap")
    assert run.status == 4
    assert "bubblewrap is not installed (apt-get install bubblewrap" in " ".join(run.text.split())


def test_each_kind_says_what_it_does_not_stop():
    for kind in KINDS:
        assert all(sentence.endswith(".") for sentence in DOES_NOT_STOP[kind])
        assert Sandbox(kind).does_not_stop
