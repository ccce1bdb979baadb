"""The scripted model: OpenAI's protocol from a client's view, and what a test learns from it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request

import pytest

from grading.ask.llm import RealModel, ScriptedModel, fail, garbled, late, say, together, use
from grading.explain.outcome import NotGradableHere
from tests.grading.conftest import write_hand_in

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "부산?"}]}]
TOOLS = [{"type": "function", "function": {"name": "lookup", "parameters": {"type": "object", "properties": {}}}}]


def post(model, **more):
    """The body of the response to a chat-completions request."""
    body = json.dumps({"model": "scripted", "messages": ASKED, **more}).encode()
    request = urllib.request.Request(f"{model.url}/chat/completions", body, {"Authorization": "Bearer secret"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.read().decode()


def scripted(*replies):
    model = ScriptedModel()
    model.script(*replies)
    model.begin()
    return model


def test_answers_come_in_order_and_requests_are_kept():
    model = scripted(use("lookup", query="부산"), say("바다가 있습니다."))
    first, second = (json.loads(post(model, tools=TOOLS))["choices"][0] for _ in range(2))
    (call,) = first["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("lookup", {"query": "부산"})
    assert (first["finish_reason"], second["finish_reason"]) == ("tool_calls", "stop")
    assert second["message"] == {"role": "assistant", "content": "바다가 있습니다."}
    assert [request.texts for request in model.requests] == [["Be brief.", "부산?"]] * 2
    assert model.requests[0].tools == ["lookup"] and model.requests[0].key == "secret"
    assert model.heard()[0]["messages"][1] == {"role": "user", "text": "부산?", "tools": []}


def test_a_stream_adds_up_to_the_answer():
    model = scripted(say("a long answer in pieces"), together(use("lookup", query="x" * 30), use("add", "{not json")))
    said, tools = "", {}
    for _ in range(2):
        events = post(model, stream=True, stream_options={"include_usage": True}).split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
        assert chunks[-1]["usage"]["prompt_tokens"] == 3
        for chunk in chunks[:-1]:
            delta = chunk["choices"][0]["delta"]
            said += delta.get("content") or ""
            for call in delta.get("tool_calls", []):
                name, arguments = tools.get(call["index"], ("", ""))
                function = call["function"]
                tools[call["index"]] = (name + function.get("name", ""), arguments + function["arguments"])
    assert said == "a long answer in pieces"
    assert tools == {0: ("lookup", json.dumps({"query": "x" * 30})), 1: ("add", "{not json")}


def test_a_function_answers_what_it_is_asked():
    model = ScriptedModel()
    model.answer(lambda request: say(request.texts[-1] * 2))
    model.begin()
    assert json.loads(post(model))["choices"][0]["message"]["content"] == "부산?부산?"


@pytest.mark.parametrize(
    ("reply", "status", "words"),
    [
        (fail(), 500, "the model failed"),
        (fail(429, "slow down"), 429, "slow down"),
        (None, 400, "the script has 0 answers"),
    ],
    ids=["500", "429", "a request too many"],
)
def test_errors(reply, status, words):
    model = scripted(*[reply] if reply else [])
    with pytest.raises(urllib.error.HTTPError) as raised:
        post(model)
    assert raised.value.code == status
    assert words in json.loads(raised.value.read())["error"]["message"]


def test_no_json_and_late():
    model = scripted(garbled(), late(say("at last"), 0.3))
    with pytest.raises(json.JSONDecodeError):
        json.loads(post(model))
    started = time.perf_counter()
    assert "at last" in post(model)
    assert time.perf_counter() - started >= 0.3


def test_a_script_that_breaks_is_the_judges_fault():
    model = ScriptedModel()
    model.answer(lambda request: say(request.texts[99]))
    model.begin()
    with pytest.raises(urllib.error.HTTPError):
        post(model)
    with pytest.raises(RuntimeError, match="script"):
        model.heard()


def test_other_paths_are_told_what_there_is():
    model = scripted()
    with urllib.request.urlopen(f"{model.url}/models") as response:
        assert json.load(response)["data"][0]["id"] == model.name
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{model.url}/embeddings", b"{}")


def test_a_real_model_is_asked_through_the_same_server():
    far = scripted(say("from far away"), fail(503, "busy"))
    real = RealModel(far.url, "far", "key")
    real.script(say("unused"), needed=False)
    assert "from far away" in post(real)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        post(real)
    assert len(real.requests) == 2
    assert far.requests[0].key == "key"
    for refused in (lambda: real.script(say("x")), lambda: real.answer(lambda request: say("x"))):
        with pytest.raises(NotGradableHere, match="--llm-url"):
            refused()


# --- in a graded test ---------------------------------------------------------------------------------------------

SOLUTION = '''"""Ask a model."""

from __future__ import annotations

import json
import urllib.request


def ask(url: str, model: str, question: str) -> str:
    """The model's answer."""
    messages = [{"role": "user", "content": question}]
    body = json.dumps({"model": model, "messages": messages}).encode()
    with urllib.request.urlopen(f"{url}/chat/completions", body) as response:
        return json.load(response)["choices"][0]["message"]["content"]
'''

TESTS = '''"""Graded tests of week1/ask."""

import pytest

from grading import expect
from grading.ask.llm import AGENT_PROCESS, say

pytestmark = pytest.mark.process(**AGENT_PROCESS)


@pytest.mark.points(1)
def test_ask(submission, llm):
    """The question is asked once, unchanged."""
    llm.script(say("42"), needed=False)
    got = submission.call("ask", llm.url, llm.name, "What is six times seven?")
    expect.that(got.output, "no answer")
    expect.that([request.text for request in llm.requests] == ["What is six times seven?"], "another question")


@pytest.mark.points(1)
def test_answer(submission, llm):
    """The answer is what the model said."""
    llm.script(say("42"))
    expect(submission.call("ask", llm.url, llm.name, "What is six times seven?")).equal_to("42")


@pytest.mark.points(1)
@pytest.mark.needs("surely_not_installed")
def test_other(submission):
    """Needs something else."""
'''

MISTAKES = """
[question-shouted]
explanation = "The question is sent in capitals."
old = '"content": question'
new = '"content": question.upper()'

[question-cut]
explanation = "Only the beginning of the question is sent."
old = '"content": question'
new = '"content": question[:10]'
"""


@pytest.fixture
def course(toy):
    for path, text in {
        "solutions/week1/ask.py": SOLUTION,
        "tests/week1/test_ask.py": TESTS,
        "tests/mistakes/week1/ask.toml": MISTAKES,
    }.items():
        (toy / path).write_text(text, "utf-8")
    return toy


def test_a_mistake_is_known_by_what_the_model_heard(course, run_pytest):
    hand_in = write_hand_in(course.parent / "hand-in", ask=SOLUTION.replace(": question}", ": question.upper()}"))
    run = run_pytest(course, "tests/week1/test_ask.py", "--impl", str(hand_in))
    assert run.record("test_ask")["mistakes"] == ["question-shouted"]
    assert run.record("test_answer")["verdict"] == "passed"
    other = run.record("test_other")
    assert (other["verdict"], "pip install -e '.[surely_not_installed]'" in other["reason"]) == (
        "not gradable here",
        True,
    )


def test_a_mistake_is_known_whatever_the_prompt(course, run_pytest):
    other = 'f"Dear model, tell me: {question[:10]} …"'
    hand_in = write_hand_in(course.parent / "hand-in", ask=SOLUTION.replace('": question}', f'": {other}}}'))
    run = run_pytest(course, "tests/week1/test_ask.py", "--impl", str(hand_in))
    assert run.record("test_ask")["mistakes"] == []  # both mistakes lose the question
    bank = course / "tests/mistakes/week1/ask.toml"
    bank.write_text(MISTAKES[: MISTAKES.index("[question-cut]")], "utf-8")
    run = run_pytest(course, "tests/week1/test_ask.py", "--impl", str(hand_in))
    assert run.record("test_ask")["mistakes"] == ["question-shouted"]


def test_with_a_real_model_what_needs_a_script_is_left_out(course, run_pytest):
    far = scripted(say("forty-two"))
    run = run_pytest(
        course, "tests/week1/test_ask.py", "--impl", "solutions", "--llm-url", far.url, "--llm-model", "far"
    )
    assert run.record("test_ask")["verdict"] == "passed"
    assert "--llm-url" in run.record("test_answer")["reason"]
    assert far.requests[0].model == "far"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--llm-url", "http://127.0.0.1:1/v1"), "give both"),
        (("--llm-url", "localhost", "--llm-model", "m"), "--llm-url localhost"),
    ],
    ids=["no model", "no URL"],
)
def test_options_that_make_no_sense_are_one_line(course, run_pytest, options, words):
    run = run_pytest(course, "tests/week1/test_ask.py", *options)
    assert run.status == 4
    assert words in run.text and "Traceback" not in run.text
