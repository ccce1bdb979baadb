"""The sandbox around the process that runs a stranger's submission, from the strongest kind to the weakest.

`bwrap` (bubblewrap) shows it a machine of its own, where there is nothing but what it needs. `landlock` has the Linux
kernel refuse it files and connections. `child` is an ordinary process whose limits Python code can get around.
"""

from __future__ import annotations

import functools
import os
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from grading.run import landlock
from grading.run.view import around

KINDS = ("bwrap", "landlock", "child")
INSIDE = Path("/tmp/whetstone")  # the private folder, as bwrap's machine names it
SCRATCH_MB = 2048  # that may be written to the private folder
NOBODY = 65534
PROJECT = Path(__file__).parents[2]
SYSTEM = tuple(map(Path, ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/nix/store", "/gnu/store")))
PERFORMING = ("run", "course", "data", "__init__.py")  # what performs requests, in grading/

DOES_NOT_STOP = {
    "bwrap": ("It does not protect against faults of the Linux kernel: for work of attackers, add a virtual machine.",),
    "landlock": (
        "The submission can see which other processes run, though not reach them.",
        "It can change the modes and dates of files of this account, though not what is in them.",
        "It can send UDP packets to the network, and reach other machines where Landlock is older than version 4.",
        "It can lower the priority and the limits of other processes of this account, and end them where Landlock is "
        "older than version 6.",
    ),
    "child": (
        "A submission that is set on it can read every file of this account, also through another program.",
        "It can reach the network, and send signals to other processes of this account.",
        "It can change the grader's files where this account may.",
        "A process that it leaves behind may outlive its test if it ends the one that keeps it, where no cgroup can "
        "be made.",
    ),
    "": ("The submission runs in the grader's own process and can do whatever the grader can.",),
}


@dataclass(frozen=True)
class Sandbox:
    """What a child may use. `kind` is empty for a process of the grader's own, without one."""

    kind: str = ""
    readable: tuple[Path, ...] = ()  # beside the interpreter, its packages and the code that performs requests
    forbidden: tuple[Path, ...] = ()  # what Python code is refused in every kind
    memory_mb: int = 0  # 0: no limit
    listable: tuple[Path, ...] = ()  # folders whose names may be read, where only parts of them are readable

    def command(self, command: Sequence[str], python: Path, relay: Path | None, copies: Path) -> list[str]:
        """The command that runs a command in this sandbox; `copies` is an empty folder outside of it."""
        if self.kind != "bwrap":
            return list(command)
        bound = _bound([*python_files(python), *self.readable], copies)
        return [*_bwrap(relay), *bound, *_SEALED, "--", *_users()[1], *command]

    @property
    def does_not_stop(self) -> tuple[str, ...]:
        """What a submission can still do, in sentences."""
        if self.kind in ("landlock", "child") and _is_root() and not self.user(Path(sys.executable)):
            return (*DOES_NOT_STOP[self.kind], "It runs as root, because nobody else may read the course's files.")
        return DOES_NOT_STOP[self.kind]

    def user(self, python: Path) -> int | None:
        """The account to give the child to, where the grader is root and bubblewrap does not do it."""
        if self.kind not in ("landlock", "child") or not _is_root():
            return None
        needed = [*python_files(python), *self.readable]
        return NOBODY if _readable_by_nobody(python, tuple(needed)) else None

    def folder(self, outside: Path) -> str:
        """The child's private folder, as the child names it."""
        return str(INSIDE) if self.kind == "bwrap" else str(outside)


OPEN = Sandbox()


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


@functools.cache
def _readable_by_nobody(python: Path, needed: tuple[Path, ...]) -> bool:
    """Whether a process without rights can run the interpreter and read all of this. It was tried."""
    code = "import os, sys; sys.exit(not all(os.access(path, os.R_OK) for path in sys.argv[1:]))"
    command = [str(python), "-I", "-c", code, *(str(path) for path in needed if path.exists())]
    try:
        tried = subprocess.run(command, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, timeout=60)
    except OSError:
        return False
    return tried.returncode == 0


def strongest() -> str:
    return next(kind for kind in KINDS if not missing(kind))


@functools.cache
def missing(kind: str) -> str:
    """Why this kind does not work here; empty if it does. It was tried."""
    if kind == "child":
        return ""
    if not sys.platform.startswith("linux"):
        return "needs Linux"
    if kind == "landlock":
        return landlock.missing()
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed (apt-get install bubblewrap, or dnf install bubblewrap)"
    true = [*_bwrap(None), *_SEALED, "--", *_users()[1], "/bin/true"]
    tried = subprocess.run(true, capture_output=True, text=True, timeout=60)
    return f"bubblewrap cannot start: {tried.stderr.strip() or tried.returncode}" if tried.returncode else ""


def _users() -> tuple[list[str], list[str]]:
    """What makes the sandbox's user one without rights: for bubblewrap, and before the command.

    Where the grader is root, bubblewrap's own user would still be root for the kernel, though without privileges, and
    an owner needs none to change the modes of devices and the kernel's settings. So root builds the sandbox, and a
    second bubblewrap within it changes the user.
    """
    alone = ["--unshare-user", "--disable-userns", "--uid", str(NOBODY), "--gid", str(NOBODY), "--cap-drop", "ALL"]
    if not _is_root():
        return alone, []
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
    again = ["bwrap", *alone, "--die-with-parent", "--dev-bind", "/", "/", "--chdir", str(INSIDE), "--"]
    return ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"], [*become, *again]


_SEALED = ("--remount-ro", "/dev", "--remount-ro", "/")  # once everything is in its place


def _bwrap(relay: Path | None) -> Iterator[str]:
    """bubblewrap with a machine of its own: no network, no processes but its own, no privileges, nothing to write to
    but a small private folder."""
    size = str(SCRATCH_MB << 20)
    kinds = ("ipc", "pid", "net", "uts", "cgroup-try")
    yield from ("bwrap", *(f"--unshare-{kind}" for kind in kinds), *_users()[0], "--hostname", "sandbox")
    yield from ("--die-with-parent", "--new-session")
    yield from ("--proc", "/proc", "--dev", "/dev")
    for path in ("/dev/shm", "/tmp"):
        yield from ("--perms", "1777", "--size", size, "--tmpfs", path)
    yield from ("--perms", "0777", "--dir", str(INSIDE))
    yield from ("--chdir", str(INSIDE))
    for place in around(filter(Path.exists, SYSTEM), [PROJECT]):
        yield from ("--symlink", os.readlink(place), str(place)) if place.is_symlink() else _bind(place)
    for path in ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "hosts", "nsswitch.conf", "localtime"):
        yield from ("--ro-bind-try", f"/etc/{path}", f"/etc/{path}")
    yield from ("--ro-bind-try", "/sys/devices/system", "/sys/devices/system")
    for device in sorted(Path("/dev").glob("nvidia*")):
        yield from ("--dev-bind-try", str(device), str(device))
    if relay is not None:
        yield from ("--dir", str(RELAY.parent), "--ro-bind", str(relay), str(RELAY))


RELAY = Path("/run/whetstone-model")  # the socket that leads to the model, as bwrap's machine names it


def _bound(paths: Sequence[Path], copies: Path) -> Iterator[str]:
    """Parents first: what is bound later covers what is below it."""
    bound: list[Path] = list(SYSTEM)
    for path in sorted(set(paths), key=lambda each: each.parts):
        if path.exists():
            for parent in reversed(path.parents[:-1]):  # bubblewrap would close what is closed to others outside
                if not any(parent.is_relative_to(each) for each in bound):
                    yield from ("--dir", str(parent))
            bound.append(path)
            yield from _bind(path, _for_all(path, copies) if _is_root() else path)


def _bind(path: Path, source: Path | None = None) -> tuple[str, ...]:
    return "--ro-bind", str(source or path), str(path)


def _for_all(path: Path, copies: Path) -> Path:
    """A path that every user may read: itself, or a copy. Only files and folders are copied, and links as links."""
    parts = [path, *(path.rglob("*") if path.is_dir() and not _is_software(path) else ())]
    if all(part.is_symlink() or part.stat().st_mode & 0o4 for part in parts):
        return path
    copy = copies / str(len(list(copies.iterdir())))
    for part in parts:
        place = copy if part == path else copy / part.relative_to(path)
        if part.is_symlink():
            place.symlink_to(os.readlink(part))
        elif part.is_dir():
            place.mkdir(mode=0o755)
        elif part.is_file():
            shutil.copyfile(part, place)
            place.chmod(0o755)
    return copy


def _is_software(path: Path) -> bool:
    """Whether this is an installation, in which nothing is private."""
    return (path / "pyvenv.cfg").exists() or (path / "bin").is_dir()


def python_files(python: Path) -> list[Path]:
    """An interpreter with its packages, and the code of the grader that performs requests."""
    prefix = python.parents[1] if python.parent.name == "bin" else python.parent
    found = [prefix, *(PROJECT / "grading" / name for name in PERFORMING)]
    config = prefix / "pyvenv.cfg"
    if config.is_file():
        lines = (line.partition("=") for line in config.read_text("utf-8", "replace").splitlines())
        home = next((Path(value.strip()) for name, _, value in lines if name.strip() == "home"), None)
        found += [home.parent, home.resolve().parent] if home is not None else []
    if site.ENABLE_USER_SITE:
        found.append(Path(site.getusersitepackages()))
    return [path for path in found if path.is_relative_to(PROJECT) or not path.is_relative_to("/usr")]


# What Landlock allows beside an interpreter: the system's programs and libraries, and devices that hold nothing.
_DEVICES_AND_SETTINGS = (
    *("/sys/devices/system", "/dev/urandom", "/dev/random"),
    *(f"/proc/{name}" for name in ("self", "cpuinfo", "meminfo", "stat", "loadavg", "sys/vm", "sys/kernel")),
    *(f"/etc/{name}" for name in ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "hosts", "localtime")),
)


def system_files() -> list[Path]:
    return [*around(filter(Path.exists, SYSTEM), [PROJECT]), *map(Path, _DEVICES_AND_SETTINGS)]


WRITABLE_DEVICES = ("/dev/null", "/dev/zero", "/dev/shm")

# What a submission's process keeps of the environment: nothing that names a person, a secret or a CI system's files.
_KEPT = ("PATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "CC", "CXX")
_KEPT_FAMILIES = ("LC_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "TRITON_", "TORCHINDUCTOR_", "NVIDIA_")


def clean_environment(folder: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_KEPT_FAMILIES)}
    if sys.platform == "win32":
        kept |= {name: os.environ[name] for name in ("SYSTEMROOT", "TEMP", "PATHEXT") if name in os.environ}
    return {**kept, "HOME": folder, "TMPDIR": folder, "USER": "student", "LOGNAME": "student"}
