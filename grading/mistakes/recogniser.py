"""Names the known mistake that returns the same wrong answers as a submission."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import replace

from grading.ask.got import Got
from grading.course.layout import Course
from grading.course.trees import Tree, find_tree
from grading.data.request import Request
from grading.data.result import Result
from grading.mistakes.agreement import agreement
from grading.mistakes.bank import Mistake, MistakeError, load_bank
from grading.mistakes.views import View, views
from grading.run.executors import InProcess, run

_REPLAY_SECONDS = 10.0


@functools.cache
def recogniser(course: Course, exercise: str) -> Recogniser:
    """The exercise's recogniser; each process imports the mistakes once."""
    return Recogniser(course, exercise)


class Recogniser:
    """Finds the one known mistake that returns the same wrong answers as a submission."""

    def __init__(self, course: Course, exercise: str) -> None:
        self.exercise = exercise
        self._solution = find_tree(course, "solutions", course.root)
        self._trees: list[tuple[Mistake, Tree]] = []
        self._answers: dict[tuple[bytes, str], Result] = {}
        self._unscripted: dict[
            tuple[int, str], Result
        ] = {}  # of one look-up: in another test a model may answer differently
        with contextlib.suppress(MistakeError):  # `python -m grading check` reports it; a student's run goes on
            for mistake in load_bank(course, exercise):
                with contextlib.suppress(MistakeError):
                    self._trees.append((mistake, mistake.tree(course)))

    def recognise(self, observed: Sequence[Got], history: Sequence[Got] = ()) -> Mistake | None:
        """The mistake that explains what was just observed; None if none does, or more than one could.

        `observed`: what the failing test saw. `history`: what earlier tests saw, to tell apart mistakes that look
        alike in this test.
        """
        recent = [got for got in observed if not got.request.count][-6:]  # counted requests are not compared
        self._unscripted.clear()
        for see in views([got.request for got in recent]):
            if all(self._is_right(got, see) for got in recent):
                return None  # right answers, but too costly
            candidates = self._agreeing(self._trees, recent, see, wrong=True)
            if len(candidates) > 1:
                candidates = self._agreeing(candidates, list(history)[::-1], see, wrong=False)
            if candidates:
                return candidates[0][0] if len(candidates) == 1 else None
        return None

    def _is_right(self, got: Got, see: View) -> bool:
        solved = self._replay(got.request, self._solution)
        given, right = (see(each, got.request, solved) for each in (got.result, solved))
        return agreement(given, right, right) is not None

    def _agreeing(
        self, candidates: Sequence[tuple[Mistake, Tree]], gots: Sequence[Got], see: View, wrong: bool
    ) -> list[tuple[Mistake, Tree]]:
        """Those that answer each request as the submission did; with `wrong`, at least once unlike the solution."""
        left, differing = list(candidates), set()
        for got in gots:
            if len(left) <= (0 if wrong else 1):
                break
            solved = self._replay(got.request, self._solution)
            given, right = (see(each, got.request, solved) for each in (got.result, solved))
            survivors = []
            for mistake, tree in left:
                verdict = agreement(given, see(self._replay(got.request, tree), got.request, solved), right)
                if verdict is not None:
                    survivors.append((mistake, tree))
                    if verdict == "both wrong":
                        differing.add(mistake.name)
            left = survivors
        return [pair for pair in left if pair[0].name in differing] if wrong else left

    def _replay(self, request: Request, tree: Tree) -> Result:
        """The tree's answer, cached because the same tests ask all submissions the same."""
        mine = id(request), tree.name
        request = replace(request, seconds=min(request.seconds, _REPLAY_SECONDS))
        if request.model is not None:
            if mine not in self._unscripted:
                self._unscripted[mine] = run(InProcess(), request, tree, self.exercise)[0]
            return self._unscripted[mine]
        key = hashlib.sha256(request.encode()).digest(), tree.name
        if key not in self._answers:
            result, _ = run(InProcess(), request, tree, self.exercise)
            self._answers[key] = result
        return self._answers[key]
