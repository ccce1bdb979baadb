"""Grades in a forked copy of a process that has imported everything, and says each verdict as soon as it is there."""

from __future__ import annotations

import atexit
import importlib
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from grading.author.inner_run import grade_tree
from grading.course.layout import Course
from grading.course.trees import Tree, find_tree
from grading.data.record import Record
from grading.run.family import end_descendants

SEVERAL_SECONDS = 20.0  # of CPU, for looking up several mistakes at once


def warm_up(course: Course, exercise: str) -> None:
    """Import what grading an exercise needs: its tests, their oracles, torch, and the known mistakes."""
    from grading.mistakes.recogniser import recogniser

    importlib.import_module("grading.run.observer")
    grade_tree(course, exercise, find_tree(course, "solutions", course.root), tests=())
    recogniser(course, exercise)


class Grading:
    """One exercise being graded. It ends by itself, or by `stop`."""

    def __init__(self, course: Course, exercise: str, tree: Tree, tests: Sequence[str] | None) -> None:
        """`tests`: the names of all of the exercise's tests in the order in which to run them; None for the file's."""
        self.started = time.monotonic()
        self.first_verdict: float | None = None  # seconds after the start
        self.problem = ""  # why it could not go on
        context = multiprocessing.get_context("fork")
        self._from, to = context.Pipe(duplex=False)
        self._process = context.Process(target=_grade, args=(to, course, exercise, tree, tests))
        self._process.start()
        to.close()

    def news(self) -> list[Record] | None:
        """The records since the last call; None once there will be no more."""
        found: list[Record] = []
        try:
            while self._from.poll():
                message = self._from.recv()
                if isinstance(message, str):
                    self.problem = message
                    continue
                if self.first_verdict is None:
                    self.first_verdict = time.monotonic() - self.started
                found.append(Record.from_dict(message))
        except (EOFError, OSError):
            self._process.join()
            if not found:
                return None
        return found

    def stop(self) -> None:
        """End it, with all processes that it has started."""
        self._process.terminate()
        self._process.join(1)
        if self._process.is_alive():  # the submission holds it up
            self._process.kill()
            self._process.join()
        self._from.close()


def _grade(to: Connection, course: Course, exercise: str, tree: Tree, tests: Sequence[str] | None) -> None:
    """In the fork: all verdicts first; then again what failed, to look up the mistakes that explain it."""
    atexit._clear()  # the watcher's folders are the watcher's to remove
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # and Ctrl-C is for it
    signal.signal(signal.SIGTERM, lambda *_: _leave())

    def tell(record: Record) -> bool:
        to.send(record.to_dict())
        return False

    try:
        grade = grade_tree(course, exercise, tree, tests, until=tell)
        if failed := [record.test for record in grade.records if record.verdict == "failed"]:
            grade_tree(course, exercise, tree, failed, until=tell, recognise=True, several=SEVERAL_SECONDS)
    except BaseException as error:
        to.send(f"{type(error).__name__}: {error}")
    finally:
        to.close()
        _leave()


def _leave() -> None:
    """End this fork, with the processes and folders that it has made."""
    atexit._run_exitfuncs()
    end_descendants(os.getpid())
    os._exit(0)


def can_fork() -> bool:
    return "fork" in multiprocessing.get_all_start_methods()


def next_exercise(course: Course, exercise: str) -> str:
    """The exercise after this one in the course's order; after the last comes the first."""
    names: list[Any] = list(course.exercises)
    return names[(names.index(exercise) + 1) % len(names)]
