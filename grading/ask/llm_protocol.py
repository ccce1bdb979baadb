"""OpenAI's chat-completions protocol: how requests are read and replies are written."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from werkzeug import Response


@dataclass(frozen=True)
class Reply:
    """One answer of the model, created by `say`, `use`, `fail` … of `grading.ask.llm`."""

    text: str | None = None
    tools: tuple[tuple[str, str], ...] = ()  # name and JSON arguments of each call
    status: int = 200
    body: str | None = None  # sent verbatim
    seconds: float = 0.0  # to wait before it is sent
    wait: Callable[[], object] | None = None  # called before it is sent, and returns when it may be


@dataclass(frozen=True)
class ChatRequest:
    """One request that the model server received."""

    body: dict[str, Any]
    key: str  # the API key sent with it

    @property
    def model(self) -> str:
        return self.body.get("model", "")

    @property
    def messages(self) -> list[dict[str, Any]]:
        return self.body.get("messages", [])

    @property
    def tools(self) -> list[str]:
        """The names of the tools that the model may call."""
        return [tool.get("function", {}).get("name", "") for tool in self.body.get("tools") or []]

    @property
    def texts(self) -> list[str]:
        """The text of each message."""
        return [message_text(message.get("content")) for message in self.messages]

    @property
    def text(self) -> str:
        """The text of all messages."""
        return "\n".join(self.texts)

    def plain(self) -> dict[str, Any]:
        """Everything that matters to the model, without identifiers."""
        messages = [
            {
                "role": message.get("role"),
                "text": message_text(message.get("content")),
                "tools": [_called(call) for call in message.get("tool_calls") or []],
            }
            for message in self.messages
        ]
        return {"model": self.model, "key": self.key, "messages": messages, "tools": self.tools}


def message_text(content: Any) -> str:
    if isinstance(content, list):  # parts
        return "\n".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def _called(call: dict[str, Any]) -> tuple[str, str]:
    function = call.get("function", {})
    return function.get("name", ""), function.get("arguments", "")


def response(reply: Reply, request: ChatRequest) -> Response:
    from werkzeug import Response

    if reply.body is not None:
        return Response(reply.body, reply.status, content_type="application/json")
    if request.body.get("stream"):
        return Response(_stream(reply, request), content_type="text/event-stream")
    choice = {"index": 0, "message": _message(reply), "finish_reason": _finish(reply)}
    body = {**_head(request, "chat.completion"), "choices": [choice], "usage": _usage(reply, request)}
    return Response(json.dumps(body, ensure_ascii=False), content_type="application/json")


def _stream(reply: Reply, request: ChatRequest) -> Iterator[bytes]:
    """The reply in chunks of a few characters, as server-sent events."""
    message = _message(reply)
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in _pieces(reply.text or "")]
    for number, call in enumerate(message.get("tool_calls", [])):
        arguments = call["function"]["arguments"]
        deltas.append({"tool_calls": [{**call, "index": number, "function": {**call["function"], "arguments": ""}}]})
        deltas += [
            {"tool_calls": [{"index": number, "function": {"arguments": piece}}]} for piece in _pieces(arguments)
        ]
    head = _head(request, "chat.completion.chunk")
    for delta in deltas:
        yield _event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    yield _event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": _finish(reply)}]})
    if (request.body.get("stream_options") or {}).get("include_usage"):
        yield _event({**head, "choices": [], "usage": _usage(reply, request)})
    yield b"data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _pieces(text: str, size: int = 8) -> Sequence[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def _head(request: ChatRequest, kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 0, "model": request.model}


def _message(reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.tools:
        message["tool_calls"] = [
            {"id": f"call_{next(_numbers)}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for name, arguments in reply.tools
        ]
    return message


_numbers = itertools.count(1)  # of tool calls: ids must be unique within a conversation


def _finish(reply: Reply) -> str:
    return "tool_calls" if reply.tools else "stop"


def _usage(reply: Reply, request: ChatRequest) -> dict[str, int]:
    """Counts words; a real model counts tokens."""
    asked, answered = len(request.text.split()), len((reply.text or "").split())
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}
