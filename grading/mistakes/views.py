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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from grading.data.request import Request, Scenario
from grading.data.result import Result, Trouble

View = Callable[[Result, Request, Result], Result]
"""view(result, request, right) is what remains of the result; `right` is the solution's."""


def views(requests: Sequence[Request]) -> tuple[View, ...]:
    """The ways to compare answers to these requests, the strictest first; numbers are compared as they are."""
    if all(request.scenario is None and request.model is None for request in requests):
        return (as_it_is,)
    return as_it_is, without_wording, by_what_is_lacking, by_exception, by_outcome


def as_it_is(result: Result, request: Request, right: Result) -> Result:
    return result


def without_wording(result: Result, request: Request, right: Result) -> Result:
    """What the submission did and returned, without its own words.

    Of each text in its own words remains which texts and numbers of the test or the model it contains; of an exception
    its type, if the solution raises it too or Python raises it for a bug.
    """
    words = _Words(request, result, right)
    return replace(
        result,
        output=words.gist(result.output),
        trouble=words.told(result.trouble),
        heard=None if result.heard is None else sorted(map(words.asked, result.heard), key=repr),
    )


def by_what_is_lacking(result: Result, request: Request, right: Result) -> Result:
    """Of messages, and of the requests to the model, only what the solution's have and they lack.

    A prompt may hold more than it must.
    """
    words = _Words(request, result, right)
    view = replace(
        without_wording(result, request, right),
        output=words.lack(result.output, right.output),
        trouble=words.told(result.trouble, right.trouble or Trouble("", "")),
    )
    if result.heard is None or right.heard is None:
        return view
    asked = result.heard if _repeats(right.heard) else _at_most_twice(result.heard)
    return replace(view, heard=[len(asked), *_lacking(words, asked, right.heard)])


def _repeats(asked: list[dict[str, Any]]) -> bool:
    return len(_at_most_twice(asked, most=1)) < len(asked)


def _at_most_twice(asked: list[dict[str, Any]], most: int = 2) -> list[dict[str, Any]]:
    """Clients that try again differ in how often."""
    times: Counter[str] = Counter()
    kept = []
    for each in asked:
        same = repr(each["messages"])
        times[same] += 1
        if times[same] <= most:
            kept.append(each)
    return kept


def _lacking(words: _Words, asked: list[dict[str, Any]], right: list[dict[str, Any]]) -> Iterator[list[Any]]:
    """For each request of the solution, the model, key and tools of the one most like it, and what it lacks."""
    left = [(each, set(words.contained(each))) for each in asked]
    for each in right:
        wanted = set(words.contained(each))
        if not left:
            yield ["missing"]
            continue
        best = max(left, key=lambda pair: (len(wanted & pair[1]), pair[0]["tools"] == each["tools"]))
        left.remove(best)
        yield [best[0]["model"], best[0]["key"], sorted(best[0]["tools"]), *sorted(filter(_telling, wanted - best[1]))]


def _telling(text: str) -> bool:
    """Whether a text is unlikely to be in a prompt by chance."""
    return not re.fullmatch(r"[a-z]*", text) and len(text) > 2


def by_exception(result: Result, request: Request, right: Result) -> Result:
    """A long message of an exception says enough, however far the submission had come."""
    view = by_what_is_lacking(result, request, right)
    trouble = result.trouble
    if trouble is None or trouble.kind != "raised" or not _tells_enough(trouble.message):
        return view
    return replace(view, heard=None, trouble=replace(trouble, message=_without_ids(trouble.message)))


def by_outcome(result: Result, request: Request, right: Result) -> Result:
    """What was run and returned, however often the model was asked: right answers may differ in that."""
    view = by_exception(result, request, right)
    return view if result.trouble is not None else replace(view, heard=None)


def _tells_enough(message: str) -> bool:
    """Whether nothing else is likely to raise it. What the model's server answers, any mistake may bring about."""
    return len(message) >= 60 and "Error code: " not in message


def _is_of_a_bug(name: str, of_an_agent: bool) -> bool:
    """Whether Python or torch raises it, not the author of a submission or of an agent framework."""
    return hasattr(builtins, name) and name not in ("ValueError", "Exception", *(["RuntimeError"] * of_an_agent))


def _without_ids(message: str) -> str:
    return re.sub(r"0x[0-9a-f]+|\d{5,}", "…", message)


class _Words:
    """The texts and numbers that a submission was given: by the test, in its arguments, and by the model."""

    def __init__(self, request: Request, result: Result, right: Result) -> None:
        self.of_an_agent = result.heard is not None or (request.process is not None and request.process.loopback)
        self.asked_nothing = result.heard == [] and bool(right.heard)
        heard = [*(result.heard or []), *(right.heard or [])]
        given = [request.args, request.kwargs, [each.get("reply") for each in heard]]
        statuses = {text for text in _strings([right.output]) if re.fullmatch(r"[a-z_]+", text)}
        self.exact = set(_strings(given)) | set(_constants(request.scenario)) | statuses
        self.texts = _longest_first(each for each in self.exact if len(each) > 1)
        said = {_plain(text) for text in _strings(given) if len(text) > 1}
        said |= {_plain(text) for text in _constants(request.scenario) if re.search(r"\w \w", text)}
        self.said = sorted(said - {""})
        self.numbers = sorted({str(number) for number in _numbers(given)})
        self.kinds = set(_strings([right.output])) | {right.trouble.type if right.trouble else ""}

    def gist(self, value: Any) -> Any:
        """The value, with what remains of each text in the submission's own words."""
        return _mapped(value, self._gist)

    def _gist(self, text: str) -> str | list[str]:
        if _EXCEPTION.fullmatch(text):
            return self.kind(text)
        return text if self._is_given(text) else self.in_own_words(text)

    def lack(self, value: Any, right: Any) -> Any:
        """The value, with what each text in the submission's own words lacks of the solution's at the same place."""
        match value:
            case dict():
                others = right if isinstance(right, dict) else {}
                return {key: self.lack(each, others.get(key)) for key, each in value.items()}
            case list() | tuple():
                known = [*(right if isinstance(right, (list, tuple)) else ()), *[None] * len(value)]
                return [self.lack(each, other) for each, other in zip(value, known, strict=False)]
            case float() if self.of_an_agent:
                return value > 0  # right answers may score documents each in its own way
            case str() if isinstance(right, str) and not self._is_given(value) and not self._is_given(right):
                return self.missing(value, right)
        return self.gist(value)

    def missing(self, text: str, right: str) -> list[str]:
        """What the solution's text says and this one doesn't; digits may be there by chance."""
        lacking = set(self.in_own_words(right)) - set(self.in_own_words(text))
        return sorted(each for each in lacking if len(each) > 1)

    def _is_given(self, text: str) -> bool:
        if text in self.exact or _EXCEPTION.fullmatch(text):
            return True
        for each in self.texts:
            text = text.replace(each, "")
        return not re.search(r"[^\W\d_]", text)

    def in_own_words(self, text: str) -> list[str]:
        plain = _plain(text)
        numbers = [each for each in self.numbers if re.search(rf"(?<![\w.]){re.escape(each)}(?![\w.]*\w)", plain)]
        return ["in its own words", *(each for each in self.said if each in plain and _telling(each)), *numbers]

    def told(self, trouble: Trouble | None, right: Trouble | None = None) -> Trouble | None:
        """What a bug raises keeps its message: it is not in the submission's own words.

        So does what is raised before anything is asked: any trouble with a framework looks like that.
        """
        if trouble is None:
            return None
        if trouble.kind != "raised":
            return replace(trouble, message="")
        if _is_of_a_bug(trouble.type, self.of_an_agent) or self.asked_nothing:
            return replace(trouble, message=_without_ids(trouble.message))
        said = self.in_own_words(trouble.message) if right is None else self.missing(trouble.message, right.message)
        return replace(trouble, message=repr(said), type=self.kind(trouble.type))

    def kind(self, name: str) -> str:
        """The name of an exception's type, "Exception" if it is one of the submission's or its framework's choice."""
        chosen = name not in self.kinds and not _is_of_a_bug(name, self.of_an_agent)
        return "Exception" if chosen else name

    def asked(self, each: dict[str, Any]) -> list[Any]:
        """A request to the model: its tools, the earlier tool calls, and the given texts that it contains."""
        calls = [[name, _canonical(given)] for message in each["messages"] for name, given in message["tools"]]
        return [each["model"], each["key"], sorted(each["tools"]), calls, self.contained(each)]

    def contained(self, each: dict[str, Any]) -> list[str]:
        told = _plain("\n".join(message["text"] for message in each["messages"]))
        return [text for text in self.said if text in told]


_EXCEPTION = re.compile(r"[A-Z]\w*(Error|Exception|Interrupt)")


def _mapped(value: Any, change: Callable[[str], Any]) -> Any:
    """Nested data with its texts changed."""
    match value:
        case str():
            return change(value)
        case dict():
            return {key: _mapped(each, change) for key, each in value.items()}
        case list() | tuple():
            return [_mapped(each, change) for each in value]
    return value


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
