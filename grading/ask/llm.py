"""A scripted language model: OpenAI's chat-completions protocol over real HTTP, on this machine.

    def test_the_tool_is_asked(submission, llm):
        llm.script(use("lookup", query="Busan"), say("It is by the sea."))
        got = submission.run(scenario, llm.url, llm.name)
        expect.that(len(llm.requests) == 2, "…")

A test judges the requests that the server received. With `--llm-url` a real model answers instead, through the same
server: requests are still recorded, and tests that depend on a script are skipped.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from grading.ask.llm_protocol import ChatRequest, Reply, response
from grading.ask.llm_server import server
from grading.explain.outcome import NotGradableHere

if TYPE_CHECKING:
    from werkzeug import Request as HttpRequest
    from werkzeug import Response


# For `pytest.mark.process`: keeps agent frameworks quiet, offline and without state from earlier runs.
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
        "CREWAI_DISABLE_TELEMETRY": "true",  # saves ten seconds per process
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


def say(text: str) -> Reply:
    """The model says this."""
    return Reply(text)


def use(tool: str, arguments: str | None = None, **values: Any) -> Reply:
    """The model calls a tool with these values, or with `arguments`, which need not be valid JSON."""
    return Reply(tools=((tool, json.dumps(values, ensure_ascii=False) if arguments is None else arguments),))


def together(*replies: Reply) -> Reply:
    """The model calls several tools at once."""
    return Reply(tools=tuple(tool for reply in replies for tool in reply.tools))


def fail(status: int = 500, message: str = "the model failed") -> Reply:
    """The server answers with an error."""
    return Reply(status=status, body=json.dumps({"error": {"message": message, "type": "server_error", "code": None}}))


def garbled() -> Reply:
    """The server's answer is not valid JSON."""
    return Reply(body='{"choices": [{"message": ')


def late(reply: Reply, seconds: float) -> Reply:
    """The answer arrives after this many seconds."""
    return replace(reply, seconds=seconds)


def held(reply: Reply, wait: Callable[[], object]) -> Reply:
    """The answer arrives when `wait()` has returned, which other requests may depend on."""
    return replace(reply, wait=wait)


Answer = Callable[[ChatRequest], Reply]


class ScriptedModel:
    """A model that follows a script, at its own URL; the script restarts with every run of a submission."""

    name = "scripted"

    def __init__(self) -> None:
        self._answer: Answer = _nothing_to_say
        self._replies: Iterator[Reply] | None = None
        self._script: tuple[Reply, ...] | None = None
        self._lock = threading.Lock()
        self._broken: Exception | None = None
        self.requests: list[ChatRequest] = []  # of the last run, in order of arrival
        self._replies_sent: list[str | None] = []  # the model's answer to each
        self.url, self.port = server().add(self), server().port

    def script(self, *replies: Reply, needed: bool = True) -> None:
        """Answer with these in order; any further request is refused with status 400.

        `needed`: whether the test depends on these answers; if not, it holds for any model.
        """
        self._script = replies

    def answer(self, function: Answer) -> None:
        """Answer each request with `function(request)`, which must be stateless."""
        self._script, self._answer = None, function

    def begin(self) -> None:
        """Forget all requests and restart the script."""
        with self._lock:
            self.requests, self._replies_sent, self._broken = [], [], None
            self._replies = None if self._script is None else iter(self._script)

    def heard(self) -> list[dict[str, Any]]:
        """The requests since `begin` and the model's answers, as plain data."""
        with self._lock:
            if self._broken is not None:
                raise RuntimeError("the model's script failed") from self._broken
            said = itertools.chain(self._replies_sent, itertools.repeat(None))
            return [{**request.plain(), "reply": reply} for request, reply in zip(self.requests, said, strict=False)]

    def respond(self, http: HttpRequest) -> Response:
        """Record a request, and answer it."""
        request = ChatRequest(http.get_json(force=True), http.headers.get("Authorization", "").removeprefix("Bearer "))
        with self._lock:
            self.requests.append(request)
            reply = self._next(request)
            self._replies_sent.append(reply.text)
        time.sleep(reply.seconds)
        if reply.wait is not None:
            reply.wait()
        return response(reply, request)

    def _next(self, request: ChatRequest) -> Reply:
        if self._script is None:
            try:
                return self._answer(request)
            except Exception as error:
                self._broken = error
                return fail(400, f"{type(error).__name__}: {error}")
        reply = next(self._replies or iter(()), None)
        return reply or fail(400, f"the script has {len(self._script)} answers; this is request {len(self.requests)}")


class RealModel(ScriptedModel):
    """The model at `--llm-url`: requests are recorded and passed on."""

    def __init__(self, url: str, name: str, key: str) -> None:
        super().__init__()
        self.name, self._upstream, self._key = name, url.rstrip("/"), key

    def script(self, *replies: Reply, needed: bool = True) -> None:
        if needed:
            raise NotGradableHere("needs a scripted model; --llm-url names a real one")

    def answer(self, function: Answer) -> None:
        raise NotGradableHere("needs a scripted model; --llm-url names a real one")

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
            return response(fail(502, f"{self._upstream} does not answer: {error}"), request)


def _nothing_to_say(request: ChatRequest) -> Reply:
    return fail(400, "unexpected request: this test gives the model no script")
