"""Text made safe to show, cut to a limit, written as JSON: how reports treat text that students control."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

_ANSI = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]"  # control sequences: colours, cursor movements
    r"|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # command strings: window titles, hyperlinks
    r"|[ -/]*[0-~])"  # everything shorter
)
_SURROGATES = re.compile("[\ud800-\udfff]")

_SHOWN: dict[int, int | str] = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},  # ␀ … ␟
    0x7F: 0x2421,  # ␡
    **dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000)], "\ufffd"),
    # They reorder the text around them, or are not seen at all.
    **dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C], "\ufffd"),
    **dict.fromkeys([0x200B, 0x2060, 0xFEFF, 0xAD, *range(0xE0000, 0xE0080)], "\ufffd"),
    **dict.fromkeys([0x2028, 0x2029], "\n"),
}


# The beginning of a line that GitHub, Azure, TeamCity or GitLab would obey: `::error::`, `##[group]`, `section_start:`.
_COMMAND = re.compile(r"^([ \t]*[:#s])(?=:[\w-]+[: ]|#\[|#vso\[|#teamcity\[|ection_(?:start|end):)", re.MULTILINE)


def plain(text: str) -> str:
    """The text without terminal escapes, with other control characters except tabs and newlines made visible.

    What a CI system would take for a command is broken by a space.
    """
    shown = _ANSI.sub("", text).replace("\r\n", "\n").replace("\r", "\n").translate(_SHOWN)
    return _COMMAND.sub(r"\1 ", shown)


def one_line(text: str) -> str:
    return " ".join(plain(text).split())


def cut(text: str, limit: int, note: str = "\n[cut: too long to show here]") -> str:
    """At most `limit` characters of the text, including a note if some were cut."""
    if len(text) <= limit:
        return text
    return text[: limit - len(note)] + note if limit > len(note) else ""


def fitted(render: Callable[[int], str], size: int) -> str:
    """The text of `render(limit)` in at most `size` bytes, with the largest `limit` on each message that fits.

    Raises ValueError if even a text without messages is larger.
    """
    for limit in (16_000, 4_000, 1_000, 250, 0):
        text = render(limit)
        if len(text.encode()) <= size:
            return text
    raise ValueError(f"the report must fit into {size} bytes, but needs {len(text.encode())} without its messages")


def markdown(text: str) -> str:
    """The text on one line, escaped for Markdown and for cells of its tables."""
    return re.sub(r"[\\`*_\[\]<>|~&$]", r"\\\g<0>", one_line(text))


def fence(text: str) -> str:
    """The text as a fenced code block that no run of backticks in it can close."""
    text = plain(text)  # first: removing an escape joins the backticks around it
    longest = max(map(len, re.findall("`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}text\n{text}\n{ticks}"


def to_json(value: Any, indent: int | None = 2) -> str:
    """Standard JSON in readable Unicode; a float that JSON can't express becomes an object, `{"float": "Infinity"}`."""
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=indent)
    return _SURROGATES.sub(lambda lone: f"\\u{ord(lone[0]):04x}", text)  # UTF-8 cannot hold them, an escape can


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    return value
