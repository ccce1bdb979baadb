"""The bank of known mistakes: it proves that the graded tests reject them, and it names them to students.

A mistake is a small change to the solution, kept as TOML in `tests/mistakes/weekN/NAME.toml`:

    [scale-missing]
    explanation = "Your scores are not divided by sqrt(head_dim): …"
    handout = "scaling"
    old = 'scale = 1 / math.sqrt(query.size(-1))'
    new = 'scale = 1.0'

`old` stands exactly once in the solution; `changes = [{old = …, new = …}, …]` where one replacement is not enough.
`file = "week1/_memory"` where the solution imports what is changed from another file of its tree.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from grading.course import Course
from grading.trees import Tree, find_tree

if TYPE_CHECKING:
    from grading.request import Request, Result
    from grading.submission import Got

    _View = Callable[[Result, Request], Result]

_KEYS = {"explanation", "handout", "file", "old", "new", "changes"}
_REPLAY_SECONDS = 10.0


class MistakeError(Exception):
    """A bank that cannot be read or does not fit the solution; the message says what to do."""


@dataclass(frozen=True)
class Mistake:
    name: str
    exercise: str
    explanation: str  # to the student
    handout: str  # section
    file: str  # of the solutions, without its suffix: the exercise itself, or what it imports
    changes: tuple[tuple[str, str], ...]

    def apply(self, solution: str) -> str:
        """The source of the solution, or of the file that is changed, with this mistake in it."""
        for old, new in self.changes:
            count = solution.count(old)
            if count != 1:
                raise MistakeError(
                    f"{self.exercise}: the mistake {self.name!r} replaces a text that stands {count} times in the "
                    f"solution and must stand once: {old.strip().splitlines()[0] if old.strip() else old!r}"
                )
            solution = solution.replace(old, new)
        return solution

    def tree(self, course: Course) -> Tree:
        """The solutions with this mistake laid over them."""
        path = course.solution(self.file)
        if not path.is_file():
            raise MistakeError(f"{self.exercise}: the mistake {self.name!r} changes {self.file}, which does not exist")
        source = self.apply(path.read_text("utf-8"))
        return find_tree(course, "solutions", course.root).overlaid(f"mistake {self.name}", self.file, source)


def load_bank(course: Course, exercise: str) -> list[Mistake]:
    """The known mistakes of an exercise, none where it has no bank."""
    path = course.mistakes(exercise)
    if not path.is_file():
        return []
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise MistakeError(f"{path.relative_to(course.root)} is not valid TOML: {error}") from None
    return [_read(exercise, name, table) for name, table in tables.items()]


def _read(exercise: str, name: str, table: Any) -> Mistake:
    if not isinstance(table, dict) or (unknown := set(table) - _KEYS):
        what = f"does not know {sorted(unknown)[0]!r}" if isinstance(table, dict) else "must be a table"
        raise MistakeError(f"{exercise}: the mistake {name!r} {what}; its keys are {', '.join(sorted(_KEYS))}")
    if not str(table.get("explanation", "")).strip():
        raise MistakeError(f"{exercise}: the mistake {name!r} has no explanation; write the sentence a student reads")
    changes = table.get("changes", [{key: table[key] for key in ("old", "new") if key in table}])
    if not changes or any(set(change) != {"old", "new"} for change in changes):
        raise MistakeError(f"{exercise}: the mistake {name!r} needs old and new, or a list of them under changes")
    return Mistake(
        name,
        exercise,
        " ".join(table["explanation"].split()),
        table.get("handout", ""),
        table.get("file", exercise),
        tuple((change["old"], change["new"]) for change in changes),
    )


@functools.cache
def recogniser(course: Course, exercise: str) -> Recogniser:
    """The exercise's recogniser, its mistakes imported once a process."""
    return Recogniser(course, exercise)


class Recogniser:
    """Finds the one known mistake that gives the same wrong answers as a submission."""

    def __init__(self, course: Course, exercise: str) -> None:
        self.exercise = exercise
        self._solution = find_tree(course, "solutions", course.root)
        self._trees: list[tuple[Mistake, Tree]] = []
        self._answers: dict[tuple[bytes, str], Result] = {}
        self._unscripted: dict[tuple[int, str], Result] = {}  # of one look-up: a model may answer anew in another test
        with contextlib.suppress(MistakeError):  # `python -m grading check` tells; a student's run goes on without
            for mistake in load_bank(course, exercise):
                with contextlib.suppress(MistakeError):
                    self._trees.append((mistake, mistake.tree(course)))

    def recognise(self, observed: Sequence[Got], history: Sequence[Got] = ()) -> Mistake | None:
        """The mistake that explains what was just observed; None where none does, or more than one could.

        `observed`: what the failing test saw. `history`: what earlier tests saw, to tell apart mistakes that look
        alike in this test.
        """
        recent = [got for got in observed if not got.request.count][-6:]  # what is counted is not compared
        self._unscripted.clear()
        for see in (_as_it_is, _whatever_the_prompts) if any(got.result.heard for got in recent) else (_as_it_is,):
            rights = [see(self._replay(got.request, self._solution), got.request) for got in recent]
            if all(_compare(see(got.result, got.request), r, r) for got, r in zip(recent, rights, strict=True)):
                return None  # right answers, at too high a price
            candidates = self._agreeing(self._trees, recent, see, wrong=True)
            if len(candidates) > 1:
                candidates = self._agreeing(candidates, list(history)[::-1], see, wrong=False)
            if candidates:
                return candidates[0][0] if len(candidates) == 1 else None
        return None

    def _agreeing(
        self, candidates: Sequence[tuple[Mistake, Tree]], gots: Sequence[Got], see: _View, wrong: bool
    ) -> list[tuple[Mistake, Tree]]:
        """Those that answer each request as the submission did, and (`wrong`) once at least not as the solution."""
        left, differing = list(candidates), set()
        for got in gots:
            if len(left) <= (0 if wrong else 1):
                break
            came, right = (see(each, got.request) for each in (got.result, self._replay(got.request, self._solution)))
            survivors = []
            for mistake, tree in left:
                verdict = _compare(came, see(self._replay(got.request, tree), got.request), right)
                if verdict is not None:
                    survivors.append((mistake, tree))
                    if verdict == "both wrong":
                        differing.add(mistake.name)
            left = survivors
        return [pair for pair in left if pair[0].name in differing] if wrong else left

    def _replay(self, request: Request, tree: Tree) -> Result:
        """What the tree answers; remembered, because the same tests ask all submissions the same."""
        from grading.execution import InProcess, perform

        mine = id(request), tree.name
        request = replace(request, seconds=min(request.seconds, _REPLAY_SECONDS))
        if request.model is not None:
            if mine not in self._unscripted:
                self._unscripted[mine] = perform(InProcess(), request, tree, self.exercise)[0]
            return self._unscripted[mine]
        key = hashlib.sha256(request.encode()).digest(), tree.name
        if key not in self._answers:
            result, _ = perform(InProcess(), request, tree, self.exercise)
            self._answers[key] = result
        return self._answers[key]


def _as_it_is(result: Result, request: Request) -> Result:
    return result


def _whatever_the_prompts(result: Result, request: Request) -> Result:
    """What a language model heard without the words that the submission chose, and in any order.

    Of each request remain its tools, the calls of tools before it, and which texts it holds of those that the test
    gave or the model said.
    """
    heard = result.heard or []
    given = _strings([request.args, request.kwargs, [each.get("reply") for each in heard]])
    texts = sorted({text for text in given if len(text) > 1})

    def gist(each: dict[str, Any]) -> list[Any]:
        told = "\n".join(message["text"] for message in each["messages"])
        calls = [call for message in each["messages"] for call in message["tools"]]
        return [each["model"], each["key"], sorted(each["tools"]), calls, [text for text in texts if text in told]]

    return replace(result, heard=sorted(map(gist, heard), key=repr))


def _strings(value: Any) -> list[str]:
    """The texts in nested data, also in such as is written in JSON."""
    match value:
        case str():
            with contextlib.suppress(ValueError):
                if isinstance(inner := json.loads(value), (list, dict)):
                    return [value, *_strings(inner)]
            return [value]
        case dict():
            return [text for each in value.items() for text in _strings(list(each))]
        case list() | tuple():
            return [text for each in value for text in _strings(each)]
    return []


# How far apart two computations of the same thing may land in each dtype, as a share of the largest number. Loose on
# purpose: mistakes lie much farther apart, and a submission need not compute in the mistake's order.
_NOISE = {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}


def _compare(student: Result, candidate: Result, right: Result) -> str | None:
    """`both right`, "both wrong" in the same way, or None where the student and the candidate disagree."""
    if _outward(student) != _outward(candidate):
        return None
    differs = _outward(student) != _outward(right)
    rights = dict(_leaves(right))
    for path, value in _leaves(student):
        match _agree(value, dict(_leaves(candidate)).get(path), rights.get(path)):
            case None:
                return None
            case "both wrong":
                differs = True
    return "both wrong" if differs else "both right"


def _outward(result: Result) -> Any:
    """All that must be the same but for the numbers."""
    trouble = result.trouble
    return (
        trouble and (trouble.kind, trouble.type, "" if trouble.kind == "time" else trouble.message),
        result.changed,
        [(facts.type, facts.shape, facts.dtype, facts.requires_grad, facts.aliases) for facts in result.facts],
        [path for path, _ in _leaves(result)],
    )


def _leaves(result: Result) -> Iterator[tuple[tuple[Any, ...], Any]]:
    def walk(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from walk(item, (*path, key))
        elif isinstance(value, (list, tuple)):
            for number, item in enumerate(value):
                yield from walk(item, (*path, number))
        else:
            yield path, value

    yield from walk(result.output, ("output",))
    yield from walk(result.grads, ("grad",))
    yield from walk(result.heard, ("heard",))


def _agree(student: Any, candidate: Any, right: Any) -> str | None:
    import torch

    if not isinstance(student, torch.Tensor):
        if isinstance(student, float) and isinstance(candidate, float):
            same = math.isclose(student, candidate, rel_tol=1e-6) or (student != student and candidate != candidate)
        else:
            same = type(student) is type(candidate) and student == candidate
        if not same:
            return None
        close = isinstance(right, float) and isinstance(student, float) and math.isclose(student, right, rel_tol=1e-4)
        return "both right" if close or student == right else "both wrong"
    if not isinstance(candidate, torch.Tensor) or candidate.shape != student.shape:
        return None
    comparable = isinstance(right, torch.Tensor) and right.shape == student.shape
    if not student.is_floating_point():
        if not torch.equal(student, candidate):
            return None
        return "both right" if comparable and torch.equal(student, right) else "both wrong"
    noise = _NOISE.get(str(student.dtype).removeprefix("torch."), 0.1)
    student, candidate = student.double(), candidate.double()
    if not _same_infinite(student, candidate):
        return None
    finite = student.isfinite()
    scale = float(student[finite].abs().max()) if finite.any() else 0.0
    apart = float((student - candidate)[finite].abs().max()) if finite.any() else 0.0
    from_right = math.inf
    if comparable and _same_infinite(student, right.double()):
        from_right = float((student - right.double())[finite].abs().max()) if finite.any() else 0.0
    if apart > max(0.02 * min(from_right, scale), noise * scale):
        return None
    return "both wrong" if from_right > max(10 * apart, 0.1 * noise * scale) else "both right"


def _same_infinite(a: Any, b: Any) -> bool:
    """Whether NaN, inf and -inf sit in the same places."""
    import torch

    finite = a.isfinite()
    return (
        torch.equal(finite, b.isfinite())
        and torch.equal(a.isnan(), b.isnan())
        and torch.equal(a[a.isinf()], b[b.isinf()])
    )
