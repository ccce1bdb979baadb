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

import tomllib
from dataclasses import dataclass
from typing import Any

from grading.course.layout import Course
from grading.course.trees import Tree, find_tree

_KEYS = {"explanation", "handout", "file", "old", "new", "changes"}


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
