"""How two answers are looked at before they are compared."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from grading.data.request import Request
from grading.data.result import Result

View = Callable[[Result, Request], Result]


def as_it_is(result: Result, request: Request) -> Result:
    return result


def without_wording(result: Result, request: Request) -> Result:
    """What a language model was asked, without the submission's own wording and in any order.

    Each request keeps its tools, the earlier tool calls, and which of the texts from the test or the model it contains.
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
