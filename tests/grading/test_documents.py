"""The documents are correct: links, tables, commands, options, the transcript and the architecture diagram."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from grading.course.layout import Course
from grading.mistakes.bank import load_bank
from tests.grading.conftest import ROOT, environment, write_hand_in

COURSE = Course(ROOT)
README = (ROOT / "README.md").read_text("utf-8")
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in sorted(ROOT.glob("docs/*.md"))}
PAGES |= {name: (ROOT / name).read_text("utf-8") for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")}
ARCHITECTURE = PAGES["docs/architecture.md"]
FOLDERS = {path.parent.name for path in (ROOT / "grading").glob("*/*.py")}
OTHER_TOOLS = {"--check", "--record"}  # options of ruff format and of python -m benchmarks.attacks


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub derives from the headings, and the explicit ones."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)"', text))


def broken_links(path: Path) -> list[str]:
    broken = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", without_code(path.read_text("utf-8"))):
        name, _, anchor = link.partition("#")
        target = (path.parent / name) if name else path
        if not target.exists() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    assert broken_links(ROOT / page) == []


def test_both_languages_of_the_errata_have_the_same_entries():
    """Each row has an anchor, what the course says, what is right, and a source."""
    rows = {
        page: [re.findall(r'^\| <a id="([\w-]+)"></a>.+ \| .+ \| .+ \|$', line) for line in PAGES[page].splitlines()]
        for page in ("docs/errata.md", "docs/errata.ko.md")
    }
    english, korean = ([found for row in rows[page] for found in row] for page in rows)
    assert english == korean and len(set(english)) == len(english)
    headings = [line for line in PAGES["docs/errata.md"].splitlines() if line.startswith("| ")]
    assert len(headings) - PAGES["docs/errata.md"].count("| the course |") == len(english)


KOREAN = sorted([*ROOT.glob("exercises/week*/*.ko.md"), ROOT / "docs" / "errata.ko.md"])
# How it is not written, and how it is.
KOREAN_STYLE = {
    r"십시오": "…세요",
    r"컨볼루션": "합성곱",
    r"사영": "투영",
    r"매개변수": "파라미터",
    r"강의": "교재",
    r"`[^`\n]+` (은|는|이|가|을|를|의|에|에서|와|과|로|으로|도|만|부터)(?=[ ,.])": "a particle directly after code",
    r"^(?:[^$\n]|\$[^$\n]+\$(?![가-힣]))*\$[^$\n]+\$[가-힣]": "a space after mathematics, or GitHub does not set it",
}


@pytest.mark.parametrize("page", KOREAN, ids=lambda page: page.name)
def test_korean_is_written_in_one_way(page):
    text = without_code(page.read_text("utf-8"))
    found = [(pattern, KOREAN_STYLE[pattern]) for pattern in KOREAN_STYLE if re.search(pattern, text, re.MULTILINE)]
    assert found == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "a.md").write_text("# One heading\n[1](b.md) [2](#one-heading) [3](#two) [4](c.md)", "utf-8")
    (tmp_path / "b.md").write_text("", "utf-8")
    assert broken_links(tmp_path / "a.md") == ["#two", "c.md"]


@pytest.fixture(scope="module")
def shown() -> str:
    command = [sys.executable, "-m", "pytest", "--help"]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True).stdout


def test_options_are_in_the_help(shown):
    for command in ("check", "naming"):
        call = [sys.executable, "-m", "grading", command, "--help"]
        shown += subprocess.run(call, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60).stdout
    named = {option for page in PAGES.values() for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", page)}
    options = named - OTHER_TOOLS
    assert {"--impl", "--isolate", "--report", "--device"} <= options
    assert [option for option in sorted(options) if option not in shown] == []


def test_every_option_of_the_grader_is_in_the_instructors_guide(shown):
    section = shown.partition("Whetstone: graded exercises")[2].partition("\n\n")[0]
    options = re.findall(r"^  (--[a-z-]+)", section, re.MULTILINE)
    assert options
    assert [option for option in options if option not in PAGES["docs/instructors.md"]] == []


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = {target for page in PAGES.values() for target in re.findall(r"(?:^|`)make ([a-z_]+)", page, re.MULTILINE)}
    assert {"grade", "test", "setup", "references"} <= targets
    assert [target for target in sorted(targets) if f"\n{target}:" not in makefile] == []


# --- the front page -------------------------------------------------------------------------------------------------


def test_the_front_page_is_short():
    assert len(README.encode()) <= 7_000


@pytest.mark.parametrize("command", ["make grade", "make test", "source .venv/bin/activate"])
def test_the_front_page_names_the_commands(command):
    assert re.search(rf"^{re.escape(command)}\b", README, re.MULTILINE)


@pytest.mark.parametrize("exercise", COURSE.exercises)
def test_the_front_page_lists_every_exercise(exercise):
    name = exercise.partition("/")[2]
    assert f"| [{name}](exercises/{exercise}.md) |" in README


def test_the_front_page_lists_no_other_exercise():
    listed = re.findall(r"^\| \[\w+\]\(exercises/(\w+/\w+)\.md\)", README, re.MULTILINE)
    assert listed == list(COURSE.exercises)


def test_the_transcript_is_real(run_pytest, tmp_path):
    """Everything except the numbers, which differ slightly between kinds of CPU."""
    (mistake,) = [each for each in load_bank(COURSE, "week1/self_attention") if each.name == "mask-inverted"]
    source = mistake.apply(COURSE.solution("week1/self_attention").read_text("utf-8"))
    hand_in = write_hand_in(tmp_path / "hand-in", self_attention=source)
    (transcript,) = re.findall(r"```\n\$ pytest exercises/week1/self_attention.py\n…\n(.*?)```", README, re.DOTALL)
    run = run_pytest(ROOT, "exercises/week1/self_attention.py", "-k", "true_in_a_boolean_mask", "--impl", str(hand_in))

    def unnumbered(text: str) -> str:
        return re.sub(r"-?\d[\d.]*(e[+-]\d+)?", "0", text)

    assert unnumbered(transcript) in unnumbered(run.text)


# --- the architecture -----------------------------------------------------------------------------------------------


def layers() -> list[list[str]]:
    """The folders of each layer of import-linter's contract, from the top."""
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = configuration["tool"]["importlinter"]["contracts"]
    (contract,) = [each for each in contracts if each["type"] == "layers"]
    return [
        [name.strip(" ()").removeprefix("grading.") for name in re.split(r"[|:]", layer)]
        for layer in contract["layers"]
    ]


def test_the_architecture_page_has_a_row_for_each_folder_in_the_order_of_the_layers():
    rows = re.findall(r"^\| \[(\w+)/\]\(\.\./grading/(\w+)\) \| \S", ARCHITECTURE, re.MULTILINE)
    assert all(shown == linked for shown, linked in rows)
    names = [name for name, _ in rows]
    assert sorted(names) == sorted(FOLDERS)
    layer_of = {name: number for number, layer in enumerate(layers()) for name in layer}
    assert set(names) <= set(layer_of)
    assert [layer_of[name] for name in names] == sorted(layer_of[name] for name in names)


def test_every_folder_is_in_the_drawing():
    (drawing,) = re.findall(r"^```mermaid\n(.*?)^```$", ARCHITECTURE, re.DOTALL | re.MULTILINE)
    boxes = re.findall(r'^ *(\w+)\["(\w+)/<br>', drawing, re.MULTILINE)
    assert all(box == shown for box, shown in boxes)
    assert sorted(box for box, _ in boxes) == sorted(FOLDERS)
    others = set(re.findall(r'^ *(\w+)\(\["', drawing, re.MULTILINE))
    arrows = re.findall(r"^ *(\w+) -[-.].*[->] (\w+)$|^ *(\w+) -\.- (\w+)$", drawing, re.MULTILINE)
    ends = {end for arrow in arrows for end in arrow if end}
    assert ends == {box for box, _ in boxes} | others


# --- the handouts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exercise", COURSE.exercises)
@pytest.mark.parametrize("language", ["", "ko"])
def test_links_of_handouts_lead_somewhere(exercise, language):
    handout = COURSE.handout(exercise, language)
    assert re.findall(r'<a id="([^"]+)"', handout.read_text("utf-8"))
    assert broken_links(handout) == []


@pytest.mark.parametrize("exercise", COURSE.exercises)
def test_both_languages_have_the_same_sections(exercise):
    sections = [
        re.findall(r'<a id="([^"]+)"', COURSE.handout(exercise, each).read_text("utf-8")) for each in ("", "ko")
    ]
    assert sections[0] == sections[1]
