"""Names the known mistakes that return the same wrong answers as a submission.

Candidates are single mistakes first, then several at once. What is named depends on the submission and on what the
failing test saw, not on which other tests were run: where several candidates fit, the submission is asked one more
question, from a list that is the same in every run. Where they cannot be told apart, nothing is named.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from grading.ask.got import Got
from grading.course.layout import Course
from grading.course.trees import Tree
from grading.data.request import Request
from grading.data.result import Result
from grading.mistakes.agreement import agreement
from grading.mistakes.bank import Mistake, MistakeError, load_bank
from grading.mistakes.variants import Variants
from grading.mistakes.views import View, views
from grading.run.cpu import Patience, cpu_seconds
from grading.run.executors import InProcess, run

_REPLAY_SECONDS = 10.0
_RECENT = 6  # answers of the failing test that are compared, the last ones
_QUESTIONS = 40  # that the submission is asked before the recogniser gives up
_CONTRADICTIONS = 12  # answers unlike the candidate, before one like it, that show its explanation to be chance
_CONSIDERED = 200  # questions that candidates are tried on; their answers are remembered
_CONSIDERED_TOGETHER = 40

# The evidence that a name needs without a further question, see `agreement`. Two mistakes can be combined in thousands
# of ways, so a number or two may come out alike by chance.
_ENOUGH = 1.0
_ENOUGH_TOGETHER = 3.0

Candidate = tuple[Mistake, ...]


class Asker(Protocol):
    """What else a submission can be asked."""

    def questions(self, names: set[str]) -> Iterable[Request]:
        """Requests, the same ones in every run of the exercise; first those of tests that mention one of `names`."""
        ...

    def ask(self, request: Request) -> Result | None:
        """The submission's answer; None if it must not be asked this."""
        ...

    @property
    def borne_out(self) -> dict[str, dict[Candidate, bool]]:
        """Whether candidates are seen in other answers of this submission, by view, as far as was looked."""
        ...


@functools.cache
def recogniser(course: Course, exercise: str) -> Recogniser:
    """The exercise's recogniser; each process imports the mistakes once."""
    return Recogniser(course, exercise)


@dataclass(frozen=True)
class _Clue:
    """One answer of the submission, and how it is looked at."""

    request: Request
    given: Result
    see: View


class Recogniser:
    """Finds the known mistakes that return the same wrong answers as a submission."""

    def __init__(self, course: Course, exercise: str) -> None:
        self.exercise = exercise
        self._bank: list[Mistake] = []
        self._trees: dict[Candidate, Tree] = {}
        self._answers: dict[tuple[bytes, str], Result] = {}
        self._unscripted: dict[tuple[int, str], Result] = {}  # of one look-up: models answer differently in another
        self._keys: dict[int, tuple[Request, bytes]] = {}
        with contextlib.suppress(MistakeError, OSError, SyntaxError):  # `python -m grading check` reports it
            self._variants = Variants(course, exercise)
            for mistake in load_bank(course, exercise):
                with contextlib.suppress(MistakeError):
                    mistake.apply(course.solution(mistake.file).read_text("utf-8"))
                    self._bank.append(mistake)

    def recognise(
        self,
        observed: Sequence[Got],
        asker: Asker | None = None,
        named: Iterable[str] = (),
        patience: Patience | None = None,
    ) -> list[Mistake]:
        """The mistakes that together explain what was just observed; none if none do, or more than one set could.

        Args:
            observed: what the failing test saw.
            asker: what else the submission can be asked, to tell apart mistakes that look alike in this test.
            named: mistakes that explain other failures of this submission; they are combined with others first.
            patience: for trying several mistakes at once; None does not.
        """
        recent = [got for got in observed if not got.request.count][-_RECENT:]  # counted requests are not compared
        if not recent or not self._bank:
            return []
        self._unscripted.clear()
        self._keys.clear()
        asked = [got.request for got in recent]
        clues = {see: [_Clue(got.request, got.result, see) for got in recent] for see in views(asked)}
        reachable = self._reachable(asked)
        chance: list[set[Mistake]] = []  # what looks alike in this test alone
        for see in clues:
            if all(self._evidence((), clue) is not None for clue in clues[see]):
                return []  # right answers, but too costly
            found = self._that_explain([(mistake,) for mistake in reachable], clues[see])
            if found := self._borne_out(found, see, asker, chance):
                return self._decide(found, see, asker)
        if patience is None or patience.over:
            return []
        until = cpu_seconds() + patience.seconds
        with patience.spending():
            for see in clues:
                for candidates in self._several(reachable, clues[see], set(named)):
                    left = (each for each in candidates if not any(wrong <= set(each) for wrong in chance))
                    found = self._that_explain(left, clues[see], until)
                    if cpu_seconds() > until:
                        return []
                    if found := self._borne_out(found, see, asker, chance):
                        return self._decide(found, see, asker)
        return []

    # --- which candidates explain the answers ---

    def _reachable(self, requests: Sequence[Request]) -> list[Mistake]:
        """The mistakes in code that one of the requests may come by, those in what they name first."""
        names = {request.name for request in requests}
        reached = set().union(*(self._variants.reached(request) for request in requests))
        touched = {mistake.name: self._variants.touched(mistake) for mistake in self._bank}
        near = [each for each in self._bank if (where := touched[each.name]) is None or where & reached]
        return sorted(near, key=lambda each: not names & (touched[each.name] or set()))

    def _that_explain(
        self, candidates: Iterable[Candidate], clues: Sequence[_Clue], until: float = math.inf
    ) -> dict[Candidate, float]:
        """The candidates that answer each request as the submission did, with the evidence that this is."""
        found = {}
        for candidate in candidates:
            if len(candidate) > 1 and cpu_seconds() > until:
                break
            evidence = 0.0
            for clue in clues:
                said = self._evidence(candidate, clue)
                if said is None:
                    break
                evidence += said
            else:
                if evidence:
                    found[candidate] = evidence
            if len(candidate) > 1 and candidate not in found:
                self._drop(candidate)
        return found

    def _evidence(self, candidate: Candidate, clue: _Clue) -> float | None:
        """How much it says that the candidate and the submission answer alike; None if they do not."""
        try:
            theirs = self._replay(clue.request, candidate)
        except MistakeError:  # these mistakes do not fit together
            return None
        return self._alike(clue.given, theirs, clue.request, clue.see)

    def _alike(self, answer: Result, other: Result, request: Request, see: View) -> float | None:
        """The agreement of two answers to a request, as the view shows them."""
        right = self._replay(request, ())
        return agreement(*(see(each, request, right) for each in (answer, other, right)))

    def _several(
        self, reachable: Sequence[Mistake], clues: Sequence[_Clue], named: set[str]
    ) -> Iterator[list[Candidate]]:
        """Several mistakes at once, in groups: first with those named before, then any two."""
        harmful = [
            each
            for each in reachable
            if any(self._harms((each,), clue.request, clue.see) for clue in clues)
            and not any(self._hangs(each, clue.request) for clue in clues)
        ]
        known = [each for each in reachable if each.name in named]
        yield [tuple(pair) for pair in itertools.combinations(known, 2)]
        yield [self._ordered(one, other) for one in known for other in harmful if other not in known]
        yield [tuple(three) for three in itertools.combinations(known, 3)]
        yield [
            self._ordered(*pair, other)
            for pair in itertools.combinations(known, 2)
            for other in harmful
            if other not in known
        ]
        yield [pair for pair in itertools.combinations(harmful, 2) if not named & {each.name for each in pair}]

    def _ordered(self, *mistakes: Mistake) -> Candidate:
        return tuple(sorted(mistakes, key=self._bank.index))

    def _hangs(self, mistake: Mistake, request: Request) -> bool:
        """Whether it runs out of time alone: dozens of pairs with it would, too."""
        trouble = self._replay(request, (mistake,)).trouble
        return trouble is not None and trouble.kind == "time"

    def _harms(self, candidate: Candidate, request: Request, see: View) -> bool:
        """Whether the candidate answers a request unlike the solution."""
        return self._alike(self._replay(request, candidate), self._replay(request, ()), request, see) is None

    # --- which of several it is ---

    def _borne_out(
        self, found: dict[Candidate, float], see: View, asker: Asker | None, chance: list[set[Mistake]]
    ) -> dict[Candidate, float]:
        """Those that are seen elsewhere too; the others join `chance`.

        Two mistakes together may look exactly like a third in one test, but not in all that the third would fail.
        """
        if asker is None:
            return found
        known = asker.borne_out.setdefault(see.__name__, {})
        for each in found.keys() - known.keys():
            known[each] = self._is_borne_out(each, see, asker)
        chance += [set(each) for each in found if not known[each]]
        return {each: evidence for each, evidence in found.items() if known[each]}

    def _is_borne_out(self, candidate: Candidate, see: View, asker: Asker) -> bool:
        contradicted = 0
        for request in self._considered(asker, [candidate]):
            if not self._harms(candidate, request, see) or (given := asker.ask(request)) is None:
                continue
            if self._evidence(candidate, _Clue(request, given, see)) is not None:
                return True
            contradicted += 1
            if contradicted == _CONTRADICTIONS:
                return False
        return not contradicted

    def _decide(self, found: dict[Candidate, float], see: View, asker: Asker | None) -> list[Mistake]:
        """The one candidate that it is; none where that cannot be told."""
        alive = list(found)
        sure = {each for each in alive if found[each] >= (_ENOUGH_TOGETHER if len(each) > 1 else _ENOUGH)}
        if asker is not None and (len(alive) > 1 or not sure):
            alive, sure = self._questioned(alive, sure, see, asker)
        texts = {tuple(mistake.explanation for mistake in each) for each in alive}
        return list(alive[0]) if len(texts) == 1 and sure & set(alive) else []

    def _questioned(
        self, alive: list[Candidate], sure: set[Candidate], see: View, asker: Asker
    ) -> tuple[list[Candidate], set[Candidate]]:
        """The candidates that are left after further questions, and those whose evidence has become enough."""
        contradicted: set[Candidate] = set()
        alike = dict.fromkeys(alive, 0)
        asked = 0
        for request in self._considered(asker, alive):
            if (sure and not self._differ(request, alive, see)) or (given := asker.ask(request)) is None:
                continue
            asked += 1
            clue = _Clue(request, given, see)
            said = {each: self._evidence(each, clue) for each in alive}
            agreeing = [each for each in alive if said[each] is not None]
            contradicted |= set(alive) - set(agreeing)
            for each in agreeing:
                alike[each] += 1
                if (said[each] or 0) >= _ENOUGH:
                    sure = sure | {each}
            alive = agreeing or alive  # where none fits, something else is wrong there as well
            if (len(alive) == 1 and alive[0] in sure) or asked == _QUESTIONS:
                break
        # Faint evidence is enough where the submission answers everything else like the candidate, too.
        return alive, sure | {each for each in alive if each not in contradicted and alike[each] >= 3}

    def _considered(self, asker: Asker, candidates: Sequence[Candidate]) -> Iterator[Request]:
        """The questions whose answers these candidates may have a part in."""
        touched = [self._variants.touched(mistake) for each in candidates for mistake in each]
        names = set().union(*(each or () for each in touched))
        everywhere = any(each is None for each in touched)
        together = any(len(each) > 1 for each in candidates)
        near = (each for each in asker.questions(names) if everywhere or names & self._variants.reached(each))
        return itertools.islice(near, _CONSIDERED_TOGETHER if together else _CONSIDERED)

    def _differ(self, request: Request, candidates: Sequence[Candidate], see: View) -> bool:
        """Whether the candidates answer a request differently."""
        first, *others = (self._replay(request, each) for each in candidates)
        return any(self._alike(first, other, request, see) is None for other in others)

    # --- answers of candidates ---

    def _tree(self, candidate: Candidate) -> Tree:
        if candidate not in self._trees:
            self._trees[candidate] = self._variants.tree(candidate)
        return self._trees[candidate]

    def _drop(self, candidate: Candidate) -> None:
        if (tree := self._trees.pop(candidate, None)) is not None:
            self._variants.drop(tree)

    def _replay(self, request: Request, candidate: Candidate) -> Result:
        """The candidate's answer, cached because the same tests ask all submissions the same."""
        tree = self._tree(candidate)
        shorter = replace(request, seconds=min(request.seconds, _REPLAY_SECONDS))
        if request.model is not None:
            mine = id(request), tree.name
            if mine not in self._unscripted:
                self._unscripted[mine] = run(InProcess(), shorter, tree, self.exercise)[0]
            return self._unscripted[mine]
        key = self._key(request, shorter), tree.name
        if key not in self._answers:
            result, _ = run(InProcess(), shorter, tree, self.exercise)
            if len(candidate) > 1:
                return result  # of hundreds, and hardly ever asked again
            self._answers[key] = result
        return self._answers[key]

    def _key(self, request: Request, shorter: Request) -> bytes:
        if id(request) not in self._keys:
            self._keys[id(request)] = request, hashlib.sha256(shorter.encode()).digest()
        return self._keys[id(request)][1]
