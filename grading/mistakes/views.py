"""How two answers are compared: as they are, or by what the submissions did, each in its own words and order.

An agent is known by what it asked the model, which tools it ran with which arguments, what it stored and what it
returned. Two agents that do the same may word their prompts and messages differently, send the parts of a prompt in
different roles, and raise exceptions of their own.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from grading.data.request import Request, Scenario
from grading.data.result import Result, Trouble

View = Callable[[Result, Request], Result]


def views(requests: Sequence[Request]) -> tuple[View, ...]:
    """The ways to compare answers to these requests, the strictest first; numbers are compared as they are."""
    if all(request.scenario is None and request.model is None for request in requests):
        return (as_it_is,)
    return as_it_is, without_wording, without_kinds, by_exception, without_texts


def as_it_is(result: Result, request: Request) -> Result:
    return result


def without_wording(result: Result, request: Request) -> Result:
    """What the submission did and returned, without its own words.

    Of each text in its own words remains which texts and numbers of the test or the model it contains.
    """
    words = _Words(request, result)
    return replace(
        result,
        output=words.gist(result.output),
        trouble=_without_message(result.trouble, words),
        heard=None if result.heard is None else sorted(map(words.asked, result.heard), key=repr),
    )


def without_kinds(result: Result, request: Request) -> Result:
    """Also without the types of exceptions, except those that bugs raise, and without replies that are common words."""
    words = _Words(request, result, loosely=True)
    return replace(
        result,
        output=words.gist(result.output),
        trouble=_without_message(result.trouble, words),
        heard=None if result.heard is None else sorted(map(words.asked, result.heard), key=repr),
    )


def without_texts(result: Result, request: Request) -> Result:
    """Of the requests to the model only their number, their tools and the tool calls in them: a prompt may hold more
    than it has to."""
    view = by_exception(result, request)
    return view if view.heard is None else replace(view, heard=sorted(each[:-1] for each in view.heard))


def by_exception(result: Result, request: Request) -> Result:
    """A long message of an exception says enough, however far the submission had come."""
    view = without_kinds(result, request)
    trouble = result.trouble
    if trouble is None or trouble.kind != "raised" or len(trouble.message) < _TELLING:
        return view
    return replace(view, heard=None, trouble=replace(trouble, message=_without_ids(trouble.message)))


_TELLING = 60  # characters of a message that nothing else is likely to raise


def _without_message(trouble: Trouble | None, words: _Words) -> Trouble | None:
    """What a bug raises keeps its message: it is not in the submission's own words."""
    if trouble is None:
        return None
    if _is_of_a_bug(trouble.type, words.of_an_agent):
        return replace(trouble, message=_without_ids(trouble.message))
    return replace(trouble, message=repr(words.in_own_words(trouble.message)), type=words.kind(trouble.type))


def _is_of_a_bug(name: str, of_an_agent: bool) -> bool:
    """Whether Python or torch raises it, not the author of a submission or of an agent framework."""
    return hasattr(builtins, name) and name not in ("ValueError", "Exception", *(["RuntimeError"] * of_an_agent))


def _without_ids(message: str) -> str:
    return re.sub(r"0x[0-9a-f]+|\d{5,}", "…", message)


class _Words:
    """The texts and numbers that a submission was given: by the test, in its arguments, and by the model."""

    def __init__(self, request: Request, result: Result, loosely: bool = False) -> None:
        self.loosely, self.of_an_agent = loosely, result.heard is not None
        given = [request.args, request.kwargs, [each.get("reply") for each in result.heard or []]]
        self.exact = set(_strings(given)) | set(_constants(request.scenario))
        self.texts = _longest_first(each for each in self.exact if len(each) > 1)
        said = {_plain(text) for text in _strings(given) if len(text) > 1}
        said |= {_plain(text) for text in _constants(request.scenario) if re.search(r"\w \w", text)}
        common = re.compile(r"[a-z]*") if loosely else re.compile("")
        self.said = sorted(text for text in said if not common.fullmatch(text))
        self.numbers = sorted({str(number) for number in _numbers(given)})

    def gist(self, value: Any) -> Any:
        """The value, with what remains of each text in the submission's own words."""
        match value:
            case str():
                return self.kind(value) if self._is_given(value) else self.in_own_words(value)
            case dict():
                return {key: self.gist(each) for key, each in value.items()}
            case list() | tuple():
                return [self.gist(each) for each in value]
        return value

    def _is_given(self, text: str) -> bool:
        if text in self.exact or text.isidentifier():
            return True
        for each in self.texts:
            text = text.replace(each, "")
        return not re.search(r"[^\W\d_]", text)

    def in_own_words(self, text: str) -> list[str]:
        plain = _plain(text)
        numbers = [each for each in self.numbers if re.search(rf"(?<![\w.]){re.escape(each)}(?![\w.]*\w)", plain)]
        return ["in its own words", *(each for each in self.said if each in plain), *numbers]

    def kind(self, name: str) -> str:
        """The name of an exception's type; loosely, "Exception" unless it is one of Python's own for a bug."""
        if not self.loosely or not re.fullmatch(r"[A-Z]\w*(Error|Exception|Interrupt)", name):
            return name
        return name if name == "ValueError" or _is_of_a_bug(name, self.of_an_agent) else "Exception"

    def asked(self, each: dict[str, Any]) -> list[Any]:
        """A request to the model: its tools, the earlier tool calls, and the given texts that it contains."""
        told = _plain("\n".join(message["text"] for message in each["messages"]))
        calls = [[name, _canonical(given)] for message in each["messages"] for name, given in message["tools"]]
        return [each["model"], each["key"], sorted(each["tools"]), calls, [text for text in self.said if text in told]]


def _plain(text: str) -> str:
    """The text with single spaces, also where it is quoted as in JSON or by repr."""
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)
    return " ".join(re.sub(r'\\([nrt"\'])', lambda match: {'"': '"', "'": "'"}.get(match[1], " "), text).split())


def _canonical(arguments: str) -> str:
    with contextlib.suppress(ValueError):
        return json.dumps(json.loads(arguments), sort_keys=True)
    return arguments


def _longest_first(texts: Iterable[str]) -> list[str]:
    return sorted(texts, key=lambda text: (-len(text), text))


@functools.cache
def _constants(scenario: Scenario | None) -> tuple[str, ...]:
    """The texts in a test's own code, which runs beside the submission."""
    if scenario is None:
        return ()
    nodes = (node for _, source in scenario.definitions for node in ast.walk(ast.parse(source)))
    return tuple(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def _numbers(value: Any) -> list[int | float]:
    match value:
        case bool():
            return []
        case int() | float():
            return [value]
        case dict():
            return [number for each in value.values() for number in _numbers(each)]
        case list() | tuple():
            return [number for each in value for number in _numbers(each)]
    return []


def _strings(value: Any) -> list[str]:
    """The strings in nested data, including data in JSON."""
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
