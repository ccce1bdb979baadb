"""Agents written differently that make the same mistake look the same, and those that make another do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from grading.data.request import Request, Scenario
from grading.data.result import Result, Trouble
from grading.mistakes.agreement import agreement
from grading.mistakes.views import as_it_is, by_exception, by_what_is_lacking, views, without_wording

SCENARIO = Scenario("play", "test_agent.py", "", ((1, "def play(module):\n    return ['returned', 'the tool ran']"),))
QUESTION = Request(
    "play", ("How many bridges has Busan?", "thread-1"), {"limit": 47}, scenario=SCENARIO, model=object()
)  # type: ignore[arg-type]


def asked(*texts: str, reply: str | None = None, tools: tuple[str, ...] = (), model: str = "m") -> dict[str, Any]:
    messages = [{"role": "user", "text": text, "tools": []} for text in texts]
    return {"model": model, "key": "none", "messages": messages, "tools": list(tools), "reply": reply}


def answered(output: Any, *heard: dict[str, Any], raised: str = "", message: str = "") -> Result:
    trouble = Trouble("raised", f"{raised}: {message}", raised) if raised else None
    return Result(output=output, heard=list(heard), trouble=trouble)


RIGHT = answered(
    ["returned", "There are 12 of them."],
    asked("Which query would help?\nHow many bridges has Busan?", reply="Busan bridges"),
    asked("How many bridges has Busan?\nFinding: Busan bridges", reply="There are 12 of them."),
)


def alike(view: Any, one: Result, other: Result) -> bool:
    """Whether both are seen to be wrong in the same way."""
    seen = [view(each, QUESTION, RIGHT) for each in (one, other, RIGHT)]
    return bool(agreement(*seen))


def without(text: str, instruction: str = "Answer.") -> Result:
    """The right requests in other words, the second one without a text."""
    told = f"{instruction} [How many bridges has Busan?] (Busan bridges)".replace(text, "")
    first = asked(f"{instruction} How many bridges has Busan?", reply="Busan bridges")
    return answered(RIGHT.output, first, asked(told, reply="There are 12 of them."))


def test_numbers_and_plain_calls_are_compared_as_they_are():
    assert views([Request("attention")]) == (as_it_is,)
    assert len(views([QUESTION])) > 1


def test_the_same_omission_in_other_words():
    mistake = without("Busan bridges")
    assert not alike(as_it_is, mistake, without("Busan bridges", "Sag es mir"))
    assert alike(without_wording, mistake, without("Busan bridges", "Sag es mir"))
    assert not alike(without_wording, mistake, without("How many bridges has Busan?"))


def test_a_prompt_may_hold_more_than_it_must():
    mistake = without("Busan bridges")
    told = mistake.heard[0]["messages"][0]["text"]
    wordy = replace(mistake, heard=[asked(f"{told} There are 12 of them.", reply="Busan bridges"), mistake.heard[1]])
    assert not alike(without_wording, mistake, wordy)
    assert alike(by_what_is_lacking, mistake, wordy)
    assert not alike(by_what_is_lacking, mistake, without("How many bridges has Busan?"))


@pytest.mark.parametrize("times", [2, 3, 4])
def test_clients_that_try_again_are_alike(times):
    again = replace(RIGHT, heard=[RIGHT.heard[0]] * 2 + [RIGHT.heard[1]])
    often = replace(RIGHT, heard=[RIGHT.heard[0]] * times + [RIGHT.heard[1]])
    assert alike(by_what_is_lacking, again, often)


def test_another_model_is_another_mistake():
    renamed = replace(RIGHT, heard=[replace_model(each, "openai/m") for each in RIGHT.heard])
    shortened = replace(RIGHT, heard=[replace_model(each, "x") for each in RIGHT.heard])
    assert alike(by_what_is_lacking, renamed, renamed)
    assert not alike(by_what_is_lacking, renamed, shortened)


def replace_model(each: dict[str, Any], model: str) -> dict[str, Any]:
    return {**each, "model": model}


def test_a_sentence_of_ones_own_keeps_what_it_names():
    stopped = answered(["returned", "No answer within 47 calls."], *RIGHT.heard)
    assert alike(without_wording, stopped, answered(["returned", "I stopped after 47 of them."], *RIGHT.heard))
    assert not alike(without_wording, stopped, answered(["returned", "I stopped."], *RIGHT.heard))
    assert not alike(without_wording, stopped, answered(["returned", "Busan bridges"], *RIGHT.heard))


def test_an_exception_of_ones_own_has_any_name_and_a_bug_has_its_own():
    stopped = answered(None, *RIGHT.heard, raised="GraphRecursionError", message="limit of 47 reached")
    for name in ("RuntimeError", "TooManyCalls"):
        spent = answered(None, *RIGHT.heard, raised=name, message="47 calls are enough")
        assert alike(without_wording, stopped, spent)
    crash = answered(None, *RIGHT.heard, raised="TypeError", message="'NoneType' object is not iterable")
    assert not alike(without_wording, stopped, crash)
    other = answered(None, *RIGHT.heard, raised="TypeError", message="unhashable type: 'list'")
    assert not alike(without_wording, crash, other)


def test_what_is_raised_before_anything_is_asked_is_compared_to_the_letter():
    unconnected = answered(None, raised="ConnectError", message="nobody listens there")
    for view in views([QUESTION]):
        assert not alike(view, unconnected, answered(None, raised="ValidationError", message="agents must be a list"))
        assert alike(view, unconnected, unconnected)


def test_a_long_message_of_a_library_says_enough():
    said = "SQLite objects created in a thread can only be used in that same thread, {} is not {}"
    early = answered(None, raised="ProgrammingError", message=said.format(139687126051712, 139686385264320))
    late = answered(
        None, RIGHT.heard[0], raised="ProgrammingError", message=said.format(139999126051712, 139888385264320)
    )
    assert not alike(by_what_is_lacking, early, late)
    assert alike(by_exception, early, late)
    refused = "Error code: 400 - {'error': {'message': 'the script has 8 answers; this is request 9'}}"
    early, late = (answered(None, *heard, raised="ApiError", message=refused) for heard in ([], RIGHT.heard))
    assert not alike(by_exception, early, late)
