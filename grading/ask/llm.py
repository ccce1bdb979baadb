"""A language model with a script: OpenAI's chat-completions protocol over real HTTP, on this machine.

    def test_the_tool_is_asked(submission, llm):
        llm.script(use("lookup", query="Busan"), say("It lies by the sea."))
        got = submission.run(scenario, llm.url, llm.name)
        expect.that(len(llm.requests) == 2, "…")

What a test can judge is what the server heard. With `--llm-url` a real model answers instead, through the same server:
requests are recorded all the same, and the tests that depend on a script are left out.
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
        self.url = server().add(self)

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
        return response(reply, request)

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
            return response(fail(502, f"{self._upstream} does not answer: {error}"), request)


def _nothing_to_say(request: ChatRequest) -> Reply:
    return fail(400, "the model was not expected to be asked")
