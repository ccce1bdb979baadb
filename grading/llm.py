"""A language model with a script: OpenAI's chat-completions protocol over real HTTP, on this machine.

    def test_the_tool_is_asked(submission, llm):
        llm.script(use("lookup", query="Busan"), say("It lies by the sea."))
        got = submission.run(scenario, llm.url, llm.name)
        expect.that(len(llm.requests) == 2, "…")

What a test can judge is what the server heard. With `--llm-url` a real model answers instead, through the same server:
requests are recorded all the same, and the tests that depend on a script are left out.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from grading.explanation import NotGradableHere

if TYPE_CHECKING:
    from werkzeug import Request as HttpRequest
    from werkzeug import Response

# For `pytest.mark.process`: agent frameworks that are quiet, keep nothing from one run to the next and ask nobody.
AGENT_PROCESS: dict[str, Any] = {
    "loopback": True,
    "environment": {
        "HOME": "{folder}",
        "NO_PROXY": "*",  # a proxy could not reach the model on this machine
        "no_proxy": "*",
        "TMPDIR": "{folder}",  # CrewAI writes lock files there
        "OPENAI_API_KEY": None,
        "OPENAI_API_BASE": None,
        "OPENAI_BASE_URL": None,
        "ANONYMIZED_TELEMETRY": "False",
        "CREWAI_DISABLE_TELEMETRY": "true",  # ten seconds a process without it
        "CREWAI_DISABLE_VERSION_CHECK": "true",
        "CREWAI_TESTING": "true",
        "CREWAI_TRACING_ENABLED": "false",
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
        "LANGSMITH_TRACING": "false",
        "LITELLM_LOCAL_MODEL_COST_MAP": "true",
        "OTEL_SDK_DISABLED": "true",
        "TRANSFORMERS_OFFLINE": "1",
    },
}


@dataclass(frozen=True)
class Reply:
    """One answer of the model. Made by the functions below."""

    text: str | None = None
    tools: tuple[tuple[str, str], ...] = ()  # names, and arguments in JSON
    status: int = 200
    body: str | None = None  # sent as it is
    seconds: float = 0.0  # before it is sent


def say(text: str) -> Reply:
    """The model says this."""
    return Reply(text)


def use(tool: str, arguments: str | None = None, **values: Any) -> Reply:
    """The model calls a tool with these values, or with `arguments`, which need not be JSON."""
    return Reply(tools=((tool, json.dumps(values, ensure_ascii=False) if arguments is None else arguments),))


def together(*replies: Reply) -> Reply:
    """The model calls several tools at once."""
    return Reply(tools=tuple(tool for reply in replies for tool in reply.tools))


def fail(status: int = 500, message: str = "the model broke down") -> Reply:
    """The server answers with an error."""
    return Reply(status=status, body=json.dumps({"error": {"message": message, "type": "server_error", "code": None}}))


def garbled() -> Reply:
    """The server's answer is no JSON."""
    return Reply(body='{"choices": [{"message": ')


def late(reply: Reply, seconds: float) -> Reply:
    """The answer comes after so many seconds."""
    return replace(reply, seconds=seconds)


@dataclass(frozen=True)
class ChatRequest:
    """One request that the model server heard."""

    body: dict[str, Any]
    key: str  # the API key that came with it

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
        """What each message says."""
        return [_text(message.get("content")) for message in self.messages]

    @property
    def text(self) -> str:
        """What all messages say."""
        return "\n".join(self.texts)

    def plain(self) -> dict[str, Any]:
        """All that matters to the model, without identifiers."""
        messages = [
            {
                "role": message.get("role"),
                "text": _text(message.get("content")),
                "tools": [_called(call) for call in message.get("tool_calls") or []],
            }
            for message in self.messages
        ]
        return {"model": self.model, "key": self.key, "messages": messages, "tools": self.tools}


def _text(content: Any) -> str:
    if isinstance(content, list):  # parts
        return "\n".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def _called(call: dict[str, Any]) -> tuple[str, str]:
    function = call.get("function", {})
    return function.get("name", ""), function.get("arguments", "")


Answer = Callable[[ChatRequest], Reply]


class ScriptedModel:
    """A model that answers by a script, at a URL of its own; every run of a submission meets it from the beginning."""

    name = "scripted"

    def __init__(self) -> None:
        self._answer: Answer = _nothing_to_say
        self._replies: Iterator[Reply] | None = None
        self._script: tuple[Reply, ...] | None = None
        self._lock = threading.Lock()
        self._broken: Exception | None = None
        self.requests: list[ChatRequest] = []  # of the last run, in the order in which they came
        self._replies_sent: list[str | None] = []  # what the model said to each
        self.url = _server().add(self)

    def script(self, *replies: Reply, needed: bool = True) -> None:
        """Answer with these in order; a request too many is refused with status 400.

        `needed`: whether the test makes sense with these answers only, or holds for any model.
        """
        self._script = replies

    def answer(self, function: Answer) -> None:
        """Answer each request with what `function` makes of it; it must not remember anything."""
        self._script, self._answer = None, function

    def begin(self) -> None:
        """Forget what was heard and begin the script again."""
        with self._lock:
            self.requests, self._replies_sent, self._broken = [], [], None
            self._replies = None if self._script is None else iter(self._script)

    def heard(self) -> list[dict[str, Any]]:
        """The requests since `begin`, and what the model said to them, as plain data."""
        with self._lock:
            if self._broken is not None:
                raise RuntimeError("the script of the model broke") from self._broken
            said = itertools.chain(self._replies_sent, itertools.repeat(None))
            return [{**request.plain(), "reply": reply} for request, reply in zip(self.requests, said, strict=False)]

    def respond(self, http: HttpRequest) -> Response:
        """The HTTP response to a request, which is recorded."""
        request = ChatRequest(http.get_json(force=True), http.headers.get("Authorization", "").removeprefix("Bearer "))
        with self._lock:
            self.requests.append(request)
            reply = self._next(request)
            self._replies_sent.append(reply.text)
        time.sleep(reply.seconds)
        return _response(reply, request)

    def _next(self, request: ChatRequest) -> Reply:
        if self._script is None:
            try:
                return self._answer(request)
            except Exception as error:
                self._broken = error
                return fail(400, f"{type(error).__name__}: {error}")
        reply = next(self._replies or iter(()), None)
        return reply or fail(400, f"the script has {len(self._script)} answers, this is request {len(self.requests)}")


class RealModel(ScriptedModel):
    """A model behind `--llm-url`: requests are recorded and passed on."""

    def __init__(self, url: str, name: str, key: str) -> None:
        super().__init__()
        self.name, self._upstream, self._key = name, url.rstrip("/"), key

    def script(self, *replies: Reply, needed: bool = True) -> None:
        if needed:
            raise NotGradableHere("needs a model that answers by a script; --llm-url names a real one")

    def answer(self, function: Answer) -> None:
        raise NotGradableHere("needs a model that answers by a script; --llm-url names a real one")

    def respond(self, http: HttpRequest) -> Response:
        from werkzeug import Response

        request = ChatRequest(http.get_json(force=True), self._key)
        with self._lock:
            self.requests.append(request)
        passed_on = urllib.request.Request(
            f"{self._upstream}/chat/completions",
            json.dumps(request.body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"},
        )
        try:
            with urllib.request.urlopen(passed_on, timeout=600) as answer:
                return Response(answer.read(), answer.status, content_type=answer.headers.get("Content-Type"))
        except urllib.error.HTTPError as error:
            return Response(error.read(), error.code, content_type=error.headers.get("Content-Type"))
        except OSError as error:
            return _response(fail(502, f"{self._upstream} does not answer: {error}"), request)


def _nothing_to_say(request: ChatRequest) -> Reply:
    return fail(400, "the model was not expected to be asked")


# --- the protocol -------------------------------------------------------------------------------------------------


def _response(reply: Reply, request: ChatRequest) -> Response:
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


_numbers = itertools.count(1)  # of tool calls: no two in a conversation may be alike


def _finish(reply: Reply) -> str:
    return "tool_calls" if reply.tools else "stop"


def _usage(reply: Reply, request: ChatRequest) -> dict[str, int]:
    """Words, where a real model counts tokens."""
    asked, answered = len(request.text.split()), len((reply.text or "").split())
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}


# --- the server ---------------------------------------------------------------------------------------------------


class _Server:
    """One HTTP server for all models of this process, each below a path of its own."""

    def __init__(self) -> None:
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._models: dict[str, ScriptedModel] = {}
        self._http = make_server("127.0.0.1", 0, self._application, threaded=True)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def add(self, model: ScriptedModel) -> str:
        """The URL at which the model answers from now on."""
        path = f"m{len(self._models) + 1}"
        self._models[path] = model
        return f"http://127.0.0.1:{self._http.server_port}/{path}/v1"

    @property
    def _application(self) -> Any:
        from werkzeug import Request as HttpRequest
        from werkzeug import Response

        @HttpRequest.application
        def application(request: HttpRequest) -> Response:
            model, _, rest = request.path.strip("/").partition("/")
            match (request.method, rest):
                case ("POST", "v1/chat/completions") if model in self._models:
                    return self._models[model].respond(request)
                case ("GET", "v1/models") if model in self._models:
                    card = {"id": self._models[model].name, "object": "model", "created": 0, "owned_by": "whetstone"}
                    return Response(json.dumps({"object": "list", "data": [card]}), content_type="application/json")
            return Response(
                json.dumps({"error": {"message": f"{request.method} {request.path}: there is only chat/completions"}}),
                404,
                content_type="application/json",
            )

        return application


@functools.cache
def _server() -> _Server:
    return _Server()
