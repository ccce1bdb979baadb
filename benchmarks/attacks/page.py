"""The table of docs/trust.md, drawn from the recorded outcomes."""

from __future__ import annotations

from typing import Any

from benchmarks.attacks.bank import CONTROLS, KINDS, all_attacks
from benchmarks.attacks.trial import ROOT, Outcome

PAGE = ROOT / "docs" / "trust.md"
BEGIN, END = "<!-- attacks -->", "<!-- /attacks -->"
SANDBOXES = {
    "bwrap": "bubblewrap",
    "landlock": "Landlock",
    "child": "plain child",
    "none": "none",
    "before": "before",  # there were sandboxes, marks for review and the rest: what the attacks are held against
}


def write_table(kept: dict[str, dict[str, Any]]) -> None:
    """Replace what stands between the markers."""
    text = PAGE.read_text("utf-8")
    head, rest = text.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    PAGE.write_text(f"{head}{BEGIN}\n{table(kept)}\n{END}{tail}", "utf-8")


def table(kept: dict[str, dict[str, Any]]) -> str:
    measured = [name for name in SANDBOXES if kept.get(name)]
    outcomes = {name: {key: Outcome(**row) for key, row in kept[name].items()} for name in measured}
    head = "| | attack | " + " | ".join(SANDBOXES[name] for name in measured) + " |"
    lines = [head, "| --- " * (2 + len(measured)) + "|"]
    for kind in KINDS:
        lines.append(f"| **{KINDS[kind]}** | |" + " |" * len(measured))
        for attack in (each for each in all_attacks() if each.kind == kind):
            cells = [_cell(outcomes[name].get(attack.name)) for name in measured]
            link = f"[{attack.path.stem}](../benchmarks/attacks/{attack.name}.py)"
            lines.append(f"| {link} | {attack.title} | " + " | ".join(cells) + " |")
    return "\n".join([_totals(measured, outcomes), "", *lines])


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return "not run"
    points = f" {outcome.points:g} of {outcome.max_points:g}" if outcome.points or outcome.honest else ""
    return (outcome.verdict if outcome.held else f"**{outcome.verdict}**") + points


def _totals(measured: list[str], outcomes: dict[str, dict[str, Outcome]]) -> str:
    lines = [
        "| | attacks | blocked | flagged | earned points | did harm | controls wronged |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in measured:
        attacks = [each for each in outcomes[name].values() if not each.attack.startswith(CONTROLS)]
        count = [
            sum(each.verdict == verdict for each in attacks) for verdict in ("blocked", "flagged", "earned", "harmed")
        ]
        wronged = sum(each.verdict == "wronged" for each in outcomes[name].values())
        lines.append(f"| {SANDBOXES[name]} | {len(attacks)} | " + " | ".join(map(str, [*count, wronged])) + " |")
    return "\n".join(lines)
