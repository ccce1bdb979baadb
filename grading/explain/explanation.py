"""What a student reads when a test fails: the call, the wrong result, where it is wrong, and the likely mistake."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace
from typing import Any

LABELS = ("called", "wrong", "expected", "got", "where", "raised at", "printed", "note", "likely", "read")
_INDENT = max(map(len, LABELS)) + 2


@dataclass(frozen=True)
class Explanation:
    """The parts of a failure message; empty parts are left out."""

    reason: str  # one line, for tables and summaries
    called: str = ""
    wrong: str = ""  # a sentence, where what was expected and what came does not say it
    expected: str = ""
    got: str = ""
    location: str = ""
    map: tuple[str, ...] = ()  # printed verbatim under `where`
    traceback: str = ""
    printed: str = ""
    note: str = ""
    likely: str = ""  # the explanation of the known mistake that returns the same wrong answer
    handout: str = ""

    def text(self, width: int = 80) -> str:
        lines = []
        seen = (
            self.called,
            self.wrong,
            self.expected,
            self.got,
            self.location,
            self.traceback,
            self.printed,
            self.note,
        )
        for label, part in zip(LABELS, (*seen, self.likely, self.handout), strict=True):
            if part:
                lines += _labelled(label, part, width)
            if label == "where" and self.map:
                lines += [" " * _INDENT + line for line in self.map]
        return "\n".join(lines)

    def with_(self, **changes: Any) -> Explanation:
        """A copy in which these parts are filled in where they are empty."""
        return replace(self, **{name: value for name, value in changes.items() if not getattr(self, name)})


def _labelled(label: str, text: str, width: int) -> list[str]:
    """The label in its own column, with the text wrapped beside it; line breaks in the text are kept."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        inner = " " * (len(paragraph) - len(paragraph.lstrip()))
        lines += textwrap.wrap(
            paragraph, max(width - _INDENT, 20), subsequent_indent=inner + "  " * bool(inner), drop_whitespace=True
        ) or [""]
    return [f"{label if i == 0 else '':<{_INDENT}}{line}".rstrip() for i, line in enumerate(lines)]
