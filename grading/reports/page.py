"""index.html: the whole grade as one page without network requests or scripts, for light, dark and paper."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from grading.data.record import Grade, Record, Tally, Verdict, show_points
from grading.reports.causes import causes
from grading.reports.terminal import next_step
from grading.reports.text import one_line, plain
from grading.reports.wording import alike, amount, explanation, nothing, reviews, shown_seed, state, ungraded

STYLE = Path(__file__).with_name("page.css")

LOOKS: dict[Verdict, tuple[str, str]] = {  # a class and a sign
    "passed": ("passed", "✓"),
    "failed": ("failed", "✗"),
    "not started": ("unstarted", "○"),
    "not reached": ("unstarted", "○"),
    "not offered": ("uncounted", "–"),
    "not gradable here": ("uncounted", "–"),
    "inconclusive": ("uncounted", "?"),
    "error": ("error", "!"),
}


HANDOUT = re.compile(r"exercises/week\d+/\w+\.md(?:#[\w-]+)?")


def render(grade: Grade, home: str | None = None) -> str:
    """The page. `home`: the way from its folder to the course, where the handouts are; None for no links to them."""
    text = _page(grade)
    if home is None:
        return text
    base = html.escape(quote(home))
    return HANDOUT.sub(lambda found: f'<a href="{base}/{found[0]}">{found[0]}</a>', text)


def _page(grade: Grade) -> str:
    exercises = list(enumerate(grade.by_exercise().items(), 1))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{_text(grade.implementation)}: {show_points(grade.points)} of {show_points(grade.max_points)} points</title>
<style>
{STYLE.read_text(encoding="utf-8").strip()}
</style>
</head>
<body>
<header>
{_head(grade)}
</header>
<main>
<table>
<caption>Points by exercise</caption>
<thead><tr><th scope="col">Exercise</th><td></td><th scope="col">Points</th></tr></thead>
<tbody>
{_lines(_row(number, name, tally) for number, (name, tally) in exercises)}
</tbody>
</table>
{_lines(_exercise(number, name, tally) for number, (name, tally) in exercises)}
</main>
<footer>
{_about(grade)}
</footer>
</body>
</html>
"""


def _head(grade: Grade) -> str:
    left_out = ", ".join(ungraded(grade))
    graded = ", ".join(filter(None, [grade.implementation, grade.identity.get("date")]))
    return _lines(
        [
            f'<p class="muted">{_text(graded)}</p>',
            f'<h1>{_number(grade.points)} <span class="muted">of {_number(grade.max_points)} points</span></h1>',
            _bar(grade),
            f'<p class="advice">{_text(next_step(grade) or nothing(grade))}</p>',
            f'<p class="muted">Not counted: {_text(left_out)}.</p>' if left_out else "",
            *(f"<p>For review, {amount(points)}: {_text(finding)}</p>" for finding, points in reviews(grade).items()),
        ]
    )


def _row(number: int, name: str, tally: Tally) -> str:
    link = f'<a href="#exercise-{number}">{_text(name)}</a> <span class="muted">{_text(state(tally))}</span>'
    return f'<tr><th scope="row">{link}</th><td>{_bar(tally)}</td><td>{_points(tally)}</td></tr>'


def _exercise(number: int, name: str, tally: Tally) -> str:
    # The anchor is inside, because a browser unfolds the block that a link points into.
    unfolded = " open" if tally.count("failed") or tally.count("error") else ""
    place = {id(record): f"test-{number}-{index}" for index, record in enumerate(tally.records, 1)}
    blocks = []
    for cause in causes(tally):
        blocks.append(_test(cause.shown, place[id(cause.shown)], unfolded=True))
        if cause.alike:
            blocks.append(f'<p class="alike">{_text(alike(cause))}:</p>')
            blocks += [_test(record, place[id(record)]) for record in cause.alike]
    others = sorted(filter(lambda record: record.verdict != "failed", tally.records), key=_rank)
    blocks += [_test(record, place[id(record)], unfolded=record.verdict == "error") for record in others]
    return _lines(
        [
            f'<details class="exercise"{unfolded}><summary><h2>{_text(name)}</h2> {_points(tally)}</summary>',
            f'<div id="exercise-{number}">',
            *blocks,
            "</div></details>",
        ]
    )


def _rank(record: Record) -> int:
    """Where a test comes that did not fail: the grader's errors first, what passed last."""
    return {"error": 0, "not started": 1, "not reached": 1, "passed": 3}.get(record.verdict, 2)


def _test(record: Record, place: str, unfolded: bool = False) -> str:
    look, sign = LOOKS[record.verdict]
    open_ = " open" if unfolded else ""
    return _lines(
        [
            f'<details class="test {look}" id="{place}"{open_}>',
            f'<summary><span class="sign" aria-hidden="true">{sign}</span>',
            f'<span class="title">{_text(record.title)}</span>',
            f'<span class="verdict">{record.verdict}</span> {_points(record)}</summary>',
            '<div class="body">',
            _block("message", explanation(record)),
            _facts(record),
            _block("output", record.output, "Printed by the submission"),
            _block("code", record.test_code, "The test"),
            "</div></details>",
        ]
    )


def _facts(record: Record) -> str:
    return _pairs(
        {
            "Known mistakes" if len(record.mistakes) > 1 else "Known mistake": ", ".join(record.mistakes),
            "Read": "" if "\nread  " in record.message else record.handout,
            **{name: _figure(value) for name, value in record.figures.items()},
            "Time": f"{record.seconds:.2f} s" if record.seconds else "",
        }
    )


def _figure(value: float | int | str) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _about(grade: Grade) -> str:
    identity = {name.capitalize(): value for name, value in grade.identity.items()}
    return _pairs({"Graded": grade.implementation, **identity, "Seed": shown_seed(grade), **grade.environment})


def _pairs(facts: Mapping[str, str | None]) -> str:
    pairs = (f"<div><dt>{_text(name)}</dt> <dd>{_text(value)}</dd></div>" for name, value in facts.items() if value)
    return f"<dl>{''.join(pairs)}</dl>"


def _block(name: str, text: str, heading: str = "") -> str:
    """Preformatted text under its heading. HTML drops the newline after the tag but keeps one that starts the text."""
    if not text:
        return ""
    title = f"<h3>{heading}</h3>" if heading else ""
    return f'{title}<pre class="{name}">\n{html.escape(plain(text))}</pre>'


def _points(of: Tally | Record) -> str:
    left_out = isinstance(of, Record) and not of.counted
    shown = f"{_number(of.max_points)} not counted" if left_out else f"{_number(of.points)} / {_number(of.max_points)}"
    return f'<span class="points">{shown}</span>'


def _number(points: float) -> str:
    return f'<data value="{points}">{show_points(points)}</data>'


def _bar(tally: Tally) -> str:
    """Decorative: the numbers beside it say the same."""
    share = tally.points / tally.max_points if tally.max_points else 0
    return f'<span class="bar" aria-hidden="true"><span style="width: {share:.1%}"></span></span>'


def _text(text: str) -> str:
    return html.escape(one_line(text))


def _lines(parts: Iterable[str]) -> str:
    return "\n".join(filter(None, parts))
