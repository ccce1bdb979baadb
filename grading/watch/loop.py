"""The loop of `python -m grading watch`: waits for saves and keys, grades, draws."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.live import Live
from watchfiles import watch as watch_files

from grading.course.layout import Course
from grading.course.trees import Tree
from grading.watch.grader import Grading, next_exercise, warm_up
from grading.watch.order import changed_names, in_order
from grading.watch.screen import Screen, View

LOOK_MS = 40  # how often keys and verdicts are looked for
QUIET_MS = 30  # a save is over when nothing was written for so long


class Quit(Exception):
    pass


class Watcher:
    def __init__(self, course: Course, exercise: str, tree: Tree) -> None:
        self.course, self.tree = course, tree
        self.grading: Grading | None = None
        self._turn_to(exercise)

    def _turn_to(self, exercise: str) -> None:
        self.stop()
        self.view = View(self.course, exercise, self.tree)
        self.source = ""
        warm_up(self.course, exercise)
        self.saved()

    def saved(self) -> None:
        """Grade what stands in the file now."""
        self.stop()
        view, source = self.view, self.tree.source(self.view.exercise)
        tests = in_order(view.grade.records, changed_names(self.source, source)) if view.records else None
        self.source, view.fresh, view.running = source, set(), True
        view.first_verdict, view.problem, view.page, view.top = None, "", "first", 0
        self.grading = Grading(self.course, view.exercise, self.tree, tests)

    def look(self) -> bool:
        """Take in new verdicts. Whether there were any."""
        if self.grading is None:
            return False
        news, view = self.grading.news(), self.view
        if news is None:
            view.running, view.problem = False, self.grading.problem
            self.stop()
            return True
        for record in news:
            view.records[record.test] = record
            view.fresh.add(record.test)
        view.first_verdict = self.grading.first_verdict
        return bool(news)

    def press(self, key: str) -> None:
        pages = {"h": "hint", "a": "all", "d": "diff"}
        if key in pages:
            self.view.page = pages[key] if self.view.page != pages[key] else "first"
            self.view.top = 0
        elif key == " ":
            self.view.top += self.view.step
        elif key == "n":
            self._turn_to(next_exercise(self.course, self.view.exercise))
        elif key in ("q", "\x03", "\x04"):
            raise Quit

    def stop(self) -> None:
        if self.grading is not None:
            self.grading.stop()
            self.grading = None


def watch(course: Course, exercise: str, tree: Tree) -> int:
    """Until the user quits. Returns the exit status."""
    console = Console(highlight=False)
    console.print(f"Getting ready for {exercise} …")
    watcher = Watcher(course, exercise, tree)
    try:
        with keyboard() as keys:
            if console.is_terminal:
                _draw(watcher, keys, console)
            else:
                _print(watcher, keys, console)
    except (Quit, KeyboardInterrupt):
        pass
    finally:
        watcher.stop()
    return 0


def _draw(watcher: Watcher, keys: Iterator[str], console: Console) -> None:
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for _ in _events(watcher, keys):
            live.update(Screen(watcher.view), refresh=True)


def _print(watcher: Watcher, keys: Iterator[str], console: Console) -> None:
    """Into a file or a pipe: a few lines for each save."""
    for _ in _events(watcher, keys):
        view = watcher.view
        if view.running:
            continue
        console.print(view.head(), markup=False)
        for heading, lines in view.lines(every=False):
            console.print("\n".join([heading, *lines]), markup=False)
        console.print(f"{view.problem or view.advice()}", markup=False)


def _events(watcher: Watcher, keys: Iterator[str]) -> Iterator[None]:
    """Whenever something is new to show."""
    yield
    roots = [root for root in watcher.tree.roots if root.is_dir()]
    saves = watch_files(
        *roots,
        watch_filter=_is_source,
        step=QUIET_MS,
        debounce=2 * QUIET_MS,
        rust_timeout=LOOK_MS,
        yield_on_timeout=True,
        raise_interrupt=True,
    )
    for changes in saves:
        pressed = list(keys_now(keys))
        for key in pressed:
            watcher.press(key)
        if changes:
            watcher.saved()
        if watcher.look() or changes or pressed:
            yield


def _is_source(_: object, path: str) -> bool:
    return Path(path).suffix == ".py"


def keys_now(keys: Iterator[str]) -> Iterator[str]:
    """The keys that were pressed since the last call."""
    for key in keys:
        if not key:
            return
        yield key


@contextlib.contextmanager
def keyboard() -> Iterator[Iterator[str]]:
    """The keys as they are pressed, and "" whenever there is none; the terminal is put back afterwards."""
    if not sys.stdin.isatty():
        yield iter(lambda: "", None)
        return
    import termios
    import tty

    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    tty.setcbreak(number)

    def pressed() -> str:
        return os.read(number, 1).decode("latin-1") if select.select([number], [], [], 0)[0] else ""

    try:
        yield iter(pressed, None)
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)
