"""Graded tests of week2/langgraph_agent: agents as graphs, judged by requests to the model, tool calls and files."""

from __future__ import annotations

import functools
import json
import os
import signal
import sqlite3
import tempfile
import threading
import time
import traceback
from pathlib import Path

import pytest

from grading import expect
from grading.ask.llm import AGENT_PROCESS, fail, garbled, late, say, together, use

pytestmark = [pytest.mark.needs("langgraph"), pytest.mark.process(**AGENT_PROCESS)]

PLACES = ["Busan", "Ulsan", "Gangneung", "Mokpo", "Yeosu", "Jeju", "Sokcho", "Pohang", "Gunsan", "Tongyeong"]


def facts(draw, number):
    """Places, each with a fact that no model can know."""
    places = [PLACES[index] for index in draw.permutation(len(PLACES)).tolist()[:number]]
    return {place: f"{place} has {draw.choice(range(1000, 9999))} lanterns." for place in places}


# --- what runs beside the submission: calls of its functions, and tools that keep a journal --------------------------


def chat(module, url, name, questions, key, cached):
    """The client alone: its reply to each question, or the exception's name; LangChain's own cache may be on."""
    from langchain_core.caches import InMemoryCache
    from langchain_core.globals import set_llm_cache

    client = module.connect(url, name, **({} if key is None else {"api_key": key}))
    said = []
    try:
        set_llm_cache(InMemoryCache() if cached else None)
        for question in questions:
            try:
                said.append(client.invoke(question).content)
            except NotImplementedError:
                raise
            except Exception as error:
                said.append(type(error).__name__)
    finally:
        set_llm_cache(None)
    return said


class Journal:
    """A file of what happened, which outlives the processes that write to it."""

    def __init__(self, path):
        self.path = path
        open(path, "w").close()

    def note(self, *event):
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(event, default=repr) + "\n")

    def events(self):
        with open(self.path, encoding="utf-8") as file:
            return [json.loads(line) for line in file]


def make_tools(journal, found, dies):
    """The functions that the graphs are given: lookup, weather and act. Each call is noted.

    `found`: what they return, by what they are given; "!…" is raised. `dies`: the number of the call in which the
    process is killed.
    """

    def outcome(tool, given, otherwise):
        journal.note(tool, given)
        if sum(event[0] in ("lookup", "weather", "act") for event in journal.events()) == dies:
            time.sleep(0.15)  # well into the work
            os.kill(os.getpid(), signal.SIGKILL)
        result = found.get(given, otherwise)
        if result.startswith("!"):
            raise RuntimeError(result[1:])
        return result

    def lookup(query: str) -> str:
        """Look a word up in the encyclopedia."""
        return outcome("lookup", query, f"Nothing is known about {query}.")

    def weather(place: str) -> str:
        """Tell what the sky looks like at a place."""
        return outcome("weather", place, f"The sky over {place} is green.")

    def act(text: str) -> str:
        """Send a letter."""
        return outcome("act", text, f"sent: {text}")

    return lookup, weather, act


def make_graph(module, kind, llm, tools, checkpointer, max_rounds):
    """The submission's graph of this kind: "research", "agent" or "approval"."""
    lookup, weather, act = tools
    if kind == "research":
        rounds = {} if max_rounds is None else {"max_rounds": max_rounds}
        return module.research_graph(llm, lookup, checkpointer, **rounds)
    if kind == "agent":
        return module.tool_agent(llm, [lookup, weather], checkpointer)
    return module.approval_graph(llm, act, checkpointer)


def delay_writes(path):
    """Make the disk slow: whatever is written to this SQLite file has to wait for a second."""
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")
    threading.Timer(1.0, writer.close).start()


def make_call(module, graph, journal, function, *args):
    """Call a function of the submission with the graph, and note what it returned or, for "raises", what it raised."""
    if function != "raises":
        journal.note("returned", getattr(module, function)(graph, *args))
        return
    try:
        journal.note("returned", getattr(module, args[0])(graph, *args[1:]))
    except NotImplementedError:
        raise
    except Exception as error:
        kind = next(each for each in type(error).__mro__ if each.__module__ == "builtins")  # of Pydantic's: ValueError
        journal.note("raised", kind.__name__, str(error))


def in_own_process(work, journal, filename):
    """Do the work in a child process and note its death; raise an exception in it here, with its line in the file."""
    child = os.fork()
    if child == 0:
        os.environ["no_proxy"] = "*"  # on macOS, the system must not be asked for proxies after a fork
        try:
            work()
        except BaseException as error:
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename == filename]
            journal.note("broke", type(error).__name__, f"{type(error).__name__}: {error}, at line {lines[-1:]}")
        os._exit(0)
    status = None
    try:
        _, status = os.waitpid(child, 0)
    finally:
        if status is None:  # out of time
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        journal.note("died", os.WTERMSIG(status))
    for what, *details in journal.events():
        if what == "broke":
            raise (NotImplementedError if details[0] == "NotImplementedError" else RuntimeError)(details[1])


def play(module, url, name, kind, processes, found=None, stored=True, dies=0, max_rounds=None):
    """Calls of the submission's functions on a graph of this kind, and the journal of what happened.

    `processes`: for each, one after the other, its calls: a function's name and its arguments without the graph.
    ("raises", …) is a call that ends in an exception, ("slow disk",) delays later writes. The processes share one file
    of checkpoints if `stored`. `found` and `dies` are those of make_tools.
    """
    folder = tempfile.mkdtemp()
    checkpoints, journal = os.path.join(folder, "checkpoints.sqlite"), Journal(os.path.join(folder, "journal"))
    tools = make_tools(journal, found or {}, dies)

    def work(calls, later):
        """Of the first process, or a later one, which gives the file as a Path instead of a str."""
        llm = module.connect(url, name)
        checkpointer = module.sqlite_checkpointer(Path(checkpoints) if later else checkpoints) if stored else None
        graph = make_graph(module, kind, llm, tools, checkpointer, max_rounds)
        for function, *args in calls:
            if function == "slow disk":
                delay_writes(checkpoints)
            else:
                make_call(module, graph, journal, function, *args)

    if len(processes) == 1:
        work(processes[0], False)
    else:
        for number, calls in enumerate(processes):
            in_own_process(functools.partial(work, calls, number > 0), journal, module.__file__)
    return journal.events()


# --- expectations -------------------------------------------------------------------------------------------------


class Story:
    """What happened: the tools' inputs, and what the functions returned or raised."""

    def __init__(self, events):
        self.events = events
        self.used = [tuple(event) for event in events if event[0] in ("lookup", "weather", "act")]
        self.inputs = [given for _, given in self.used]
        self.returned = [event[1] for event in events if event[0] == "returned"]
        self.raised = [": ".join(event[1:]) for event in events if event[0] == "raised"]
        self.died = any(event[0] == "died" for event in events)


def run(submission, llm, kind, *processes, **options):
    """The story of these processes, each a list of calls."""
    return Story(submission.run(play, llm.url, llm.name, kind, [list(calls) for calls in processes], **options).output)


def expect_calls(llm, number, why):
    expect.that(len(llm.requests) == number, f"the model was called {len(llm.requests)} times, not {number}: {why}")


def expect_equal(found, right, what):
    expect.that(found == right, f"{what} {found!r}, should be {right!r}")


def expect_text(request, words, what):
    missing = [word for word in words if word not in request.text]
    expect.that(not missing, f"{what} lacks {missing}: {request.texts}")


def expect_died(story):
    expect.that(story.died, f"the process should have been killed inside a tool, but was not: {story.events}")


def expect_legal(llm):
    """Tool results follow the message with the calls at once, one for each, and appear nowhere else."""
    for request in llm.requests:
        waiting = []
        for message in request.messages:
            if message["role"] == "tool":
                expect.that(message.get("tool_call_id") in waiting, f"a tool result without a call: {message}")
                waiting.remove(message["tool_call_id"])
            else:
                expect.that(not waiting, f"{len(waiting)} tool calls have no result before the next message: {message}")
                waiting = [call["id"] for call in message.get("tool_calls") or []]
        expect.that(not waiting, f"{len(waiting)} tool calls have no result when the model is called again")


# --- the client ---------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("client")
def test_the_model_is_asked_by_its_name(submission, llm):
    """The request names the model as the server does, and holds the question."""
    llm.script(say("It lies by the sea."), needed=False)
    (said,) = submission.run(chat, llm.url, llm.name, ["Where is Busan?"], None, False).output
    expect.that(said, "the client returned no answer")
    expect_calls(llm, 1, "one question")
    expect_equal(llm.requests[0].model, llm.name, "the request names the model")
    expect_text(llm.requests[0], ["Where is Busan?"], "the request")


@pytest.mark.points(1)
@pytest.mark.handout("client")
@pytest.mark.parametrize("key", [None, "abc-123"], ids=["default", "given"])
def test_the_key_is_sent(submission, llm, key):
    """The request carries the given API key, by default "none"."""
    llm.script(say("yes"))
    submission.run(chat, llm.url, llm.name, ["Are you there?"], key, False).require_answer()
    expect_equal(llm.requests[0].key, key or "none", "the server saw the key")


@pytest.mark.points(1)
@pytest.mark.handout("client")
def test_the_client_never_tries_again(submission, llm):
    """A server error, or a reply that is not JSON, raises an exception after one request."""
    llm.script(fail(), fail(429), garbled(), say("At last."))
    said = submission.run(chat, llm.url, llm.name, ["one", "two", "three", "four"], None, False).output
    expect_equal([request.text for request in llm.requests], ["one", "two", "three", "four"], "the requests are")
    expect.that(said.index("At last.") == 3, f"the server failed three times, but the client returned {said}")


@pytest.mark.points(1)
@pytest.mark.handout("client")
def test_the_client_keeps_no_answers(submission, llm):
    """A repeated question is asked again, even if LangChain has a cache for all models."""
    llm.script(say("first"), say("second"))
    said = submission.run(chat, llm.url, llm.name, ["How are you?", "How are you?"], None, True).output
    expect_equal(said, ["first", "second"], "the answers are")


# --- research -----------------------------------------------------------------------------------------------------


@pytest.mark.points(2)
@pytest.mark.handout("research")
def test_analysis_look_up_judgement_answer(submission, draw, llm):
    """One round: the analysis is looked up, the finding is judged, the question is answered."""
    ((place, fact),) = facts(draw, 1).items()
    question = f"How bright is it in {place} at night?"
    llm.script(say(place), say("yes"), say("Very bright."))
    story = run(submission, llm, "research", [("ask", question, "t")], found={place: fact}, stored=False)
    expect_equal(story.inputs, [place], "the lookups are")
    expect_equal(story.returned, ["Very bright."], "the answers are")
    expect_calls(llm, 3, "analysis, judgement, answer")
    for request, what in zip(llm.requests, ["the analysis", "the judgement", "the answer's request"], strict=True):
        expect_text(request, [question], what)
    for request, what in zip(llm.requests[1:], ["the judgement", "the answer's request"], strict=True):
        expect_text(request, [fact], what)


@pytest.mark.points(1)
@pytest.mark.handout("research")
def test_white_space_around_a_query(submission, llm):
    """The query is looked up without surrounding white space."""
    llm.script(say("  the harbour of Busan\n"), say("yes"), say("done"))
    story = run(submission, llm, "research", [("ask", "Where do ships go?", "t")], stored=False)
    expect_equal(story.inputs, ["the harbour of Busan"], "the lookups are")


@pytest.mark.points(1)
@pytest.mark.handout("research")
def test_yes_ends_the_search(submission, llm):
    """A judgement that begins with yes, in upper or lower case, is followed by the answer."""
    llm.script(*[say(text) for verdict in ("yes", "Yes, they do.", "YES") for text in ("Busan", verdict, "done")])
    calls = [("ask", "Where?", thread) for thread in "abc"]
    story = run(submission, llm, "research", calls, stored=False)
    expect_equal(story.inputs, ["Busan"] * 3, "in three runs the lookups are")
    expect_equal(story.returned, ["done"] * 3, "the answers are")


@pytest.mark.points(1)
@pytest.mark.handout("research")
@pytest.mark.parametrize(
    ("verdicts", "queries"),
    [
        (["no: Ulsan harbour", "No:  the year 12:30\n", "NO:Jeju"], ["Ulsan harbour", "the year 12:30", "Jeju"]),
        (["no", "No, not yet.", "no:", "I cannot tell. Yes or no?"], ["Busan"] * 4),
    ],
    ids=["next-query", "same-query"],
)
def test_no_goes_on(submission, llm, verdicts, queries):
    """`no: QUERY` names the next query; after any other reply but yes, the query stays the same."""
    llm.script(say("Busan"), *map(say, verdicts), say("yes"), say("done"))
    story = run(submission, llm, "research", [("ask", "Where?", "t")], stored=False, max_rounds=9)
    expect_equal(story.inputs, ["Busan", *queries], f"by {verdicts} the lookups are")


@pytest.mark.points(2)
@pytest.mark.handout("state")
def test_findings_add_up(submission, draw, llm):
    """Three rounds: each judgement and the answer get the question and all findings so far."""
    found = facts(draw, 3)
    first, second, third = found
    llm.script(say(first), say(f"no: {second}"), say(f"no: {third}"), say("yes"), say("All of them."))
    story = run(submission, llm, "research", [("ask", "Where is light?", "t")], found=found, stored=False)
    expect_equal(story.inputs, [first, second, third], "the lookups are")
    expect_equal(story.returned, ["All of them."], "the answers are")
    for number, what in ((1, "the first judgement"), (2, "the second judgement"), (3, "the third judgement")):
        expect_text(llm.requests[number], ["Where is light?", *list(found.values())[:number]], what)
    expect_text(llm.requests[4], ["Where is light?", *found.values()], "the answer's request")


@pytest.mark.points(1)
@pytest.mark.handout("research")
@pytest.mark.parametrize("max_rounds", [1, None], ids=["one", "default"])
def test_rounds_are_limited(submission, llm, max_rounds):
    """A model that is never satisfied gets max_rounds lookups, each judged, and then must answer."""
    llm.answer(lambda request: say("no: more"))
    story = run(submission, llm, "research", [("ask", "Where?", "t")], stored=False, max_rounds=max_rounds)
    rounds = max_rounds or 3
    expect_equal(len(story.inputs), rounds, "the number of lookups is")
    expect_calls(llm, rounds + 2, f"analysis, {rounds} judgements, answer")


@pytest.mark.points(1)
@pytest.mark.handout("adversity")
def test_a_look_up_that_raises(submission, llm):
    """The exception's message is a finding like any other: it is judged, and the search goes on."""
    llm.script(say("Busan"), say("no: Ulsan"), say("yes"), say("done"))
    found = {"Busan": "!volume B is out on loan", "Ulsan": "Ulsan builds ships."}
    story = run(submission, llm, "research", [("ask", "Where?", "t")], found=found, stored=False)
    expect_equal(story.inputs, ["Busan", "Ulsan"], "the lookups are")
    expect_text(llm.requests[1], ["volume B is out on loan"], "the judgement")
    expect_text(llm.requests[3], ["volume B is out on loan", "Ulsan builds ships."], "the answer's request")


@pytest.mark.points(1)
@pytest.mark.handout("research")
def test_no_rounds_are_refused(submission, llm):
    """max_rounds below 1 raises a ValueError that names it and the value."""
    got, ordinary = (
        submission.run(play, llm.url, llm.name, "research", [[]], stored=False, max_rounds=rounds) for rounds in (-2, 1)
    )
    expect(got).raises(ValueError, mentioning=["max_rounds", -2], unlike=ordinary)


@pytest.mark.points(1)
@pytest.mark.handout("real")
def test_research_with_any_model(submission, llm):
    """With any model: one to three lookups, one model call each plus two, and an answer."""
    llm.script(say("Busan"), say("no: Ulsan"), say("yes"), say("By the sea."), needed=False)
    story = run(submission, llm, "research", [("ask", "Where are Korea's shipyards?", "t")])
    expect.that(1 <= len(story.inputs) <= 3, f"{len(story.inputs)} lookups, should be one to three")
    expect_calls(llm, len(story.inputs) + 2, f"{len(story.inputs)} lookups")
    expect.that(isinstance(story.returned[0], str) and story.returned[0], f"the answer is {story.returned[0]!r}")


# --- the agent ----------------------------------------------------------------------------------------------------


@pytest.mark.points(2)
@pytest.mark.handout("react")
def test_the_agent_uses_a_tool(submission, draw, llm):
    """The model calls a tool, gets its result, and answers."""
    ((place, fact),) = facts(draw, 1).items()
    llm.script(use("lookup", query=place), say("Very bright."))
    story = run(submission, llm, "agent", [("ask", "How bright is it?", "t")], found={place: fact}, stored=False)
    expect_equal(story.used, [("lookup", place)], "the tool calls are")
    expect_equal(story.returned, ["Very bright."], "the answers are")
    expect_calls(llm, 2, "a tool call, an answer")
    expect_text(llm.requests[1], ["How bright is it?", fact], "the second request")
    expect_legal(llm)


@pytest.mark.points(1)
@pytest.mark.handout("react")
def test_the_model_is_told_about_its_tools(submission, llm):
    """Each request offers both tools with name and docstring; a question may need neither."""
    llm.script(say("Hello."))
    story = run(submission, llm, "agent", [("ask", "Good morning!", "t")], stored=False)
    expect_equal(story.returned, ["Hello."], "the answers are")
    expect_equal(sorted(llm.requests[0].tools), ["lookup", "weather"], "the offered tools are")
    told = json.dumps(llm.requests[0].body["tools"])
    for docstring in ("Look a word up in the encyclopedia.", "Tell what the sky looks like at a place."):
        expect.that(docstring in told, f"the model is not told {docstring!r}: {told}")


@pytest.mark.points(1)
@pytest.mark.handout("react")
def test_several_tools_at_once(submission, draw, llm):
    """Three calls in one reply, then another: each runs once and has its result."""
    found = facts(draw, 2)
    first, second = found
    calls = together(use("lookup", query=first), use("weather", place=first), use("lookup", query=second))
    llm.script(calls, use("weather", place=second), say("done"))
    story = run(submission, llm, "agent", [("ask", "Tell me all.", "t")], found={second: found[second]}, stored=False)
    right = [("lookup", first), ("lookup", second), ("weather", first), ("weather", second)]
    expect_equal(sorted(story.used), sorted(right), "the tool calls are")
    expect_text(llm.requests[1], [found[second], f"The sky over {first} is green."], "the second request")
    expect_calls(llm, 3, "two replies with tool calls, an answer")
    expect_legal(llm)


@pytest.mark.points(1)
@pytest.mark.handout("adversity")
@pytest.mark.parametrize("wrong", ["raises", "no-JSON", "no-quotes", "other-argument", "unknown-tool"])
def test_a_tool_call_goes_wrong(submission, llm, wrong):
    """The run goes on: the next request says what was wrong, and the model tries something else."""
    call, words = {
        "raises": (use("lookup", query="Atlantis"), ["the page is torn"]),
        "no-JSON": (use("lookup", "query: Busan"), []),
        "no-quotes": (use("lookup", '{"query": Busan}'), []),
        "other-argument": (use("lookup", town="Busan"), []),
        "unknown-tool": (use("telephone", number="110"), ["telephone"]),
    }[wrong]
    llm.script(call, use("lookup", query="Busan"), say("done"))
    found = {"Atlantis": "!the page is torn", "Busan": "Busan has ships."}
    story = run(submission, llm, "agent", [("ask", "Where?", "t")], found=found, stored=False)
    used = [("lookup", "Atlantis")] if wrong == "raises" else []
    expect_equal(story.used, [*used, ("lookup", "Busan")], "the tool calls are")
    expect_calls(llm, 3, "a wrong call, a right one, an answer")
    expect_equal(story.returned, ["done"], "the answers are")
    told = "\n".join(llm.requests[1].texts[len(llm.requests[0].texts) :]).strip()
    expect.that(told, "the second request does not say what was wrong with the tool call")
    expect_text(llm.requests[1], words, "the second request")
    expect_text(llm.requests[2], ["Busan has ships."], "the third request")
    expect_legal(llm)


@pytest.mark.points(1)
@pytest.mark.handout("adversity")
def test_right_calls_beside_wrong_ones(submission, llm):
    """Of four calls in one reply, three fail in different ways; the fourth runs, and each has a result."""
    calls = (use("lookup", query="Atlantis"), use("lookup", "{Busan"), use("telephone"), use("weather", place="Jeju"))
    llm.script(together(*calls), say("done"))
    found = {"Atlantis": "!the page is torn"}
    story = run(submission, llm, "agent", [("ask", "Where?", "t")], found=found, stored=False)
    expect_equal(sorted(story.used), [("lookup", "Atlantis"), ("weather", "Jeju")], "the tool calls are")
    expect_equal(story.returned, ["done"], "the answers are")
    expect_text(llm.requests[1], ["the page is torn", "telephone", "The sky over Jeju is green."], "the second request")
    expect_legal(llm)


@pytest.mark.points(1)
@pytest.mark.handout("adversity")
def test_a_late_answer_is_waited_for(submission, llm):
    """A slow model is waited for and called only once."""
    llm.script(late(use("lookup", query="Busan"), 0.7), say("done"))
    story = run(submission, llm, "agent", [("ask", "Where?", "t")], stored=False)
    expect_equal((story.returned, story.inputs), (["done"], ["Busan"]), "answers and lookups are")
    expect_calls(llm, 2, "a tool call, an answer")


# --- the limit ----------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("limit")
@pytest.mark.parametrize("kind", ["research", "agent"])
def test_a_run_without_end_is_stopped(submission, llm, kind):
    """At most recursion_limit model calls, 25 by default, then an answer that names the limit."""
    llm.answer(lambda request: use("lookup", query="more") if request.tools else say("no: more"))
    for limit, given in ((1, [1]), (6, [6]), (25, [])):
        story = run(submission, llm, kind, [("ask", "Where?", "t", *given)], stored=False, max_rounds=40)
        expect.that(
            len(llm.requests) <= limit, f"the model was called {len(llm.requests)} times, at most {limit} allowed"
        )
        (answer,) = story.returned
        clear = isinstance(answer, str) and str(limit) in answer
        expect.that(clear, f"the answer does not name the limit of {limit}: {answer!r}")


@pytest.mark.points(1)
@pytest.mark.handout("limit")
@pytest.mark.parametrize("kind", ["research", "agent"])
def test_a_run_that_needs_all_of_its_calls(submission, llm, kind):
    """A run that finishes with the last allowed call returns its answer."""
    if kind == "research":
        llm.script(say("Busan"), say("no: Ulsan"), say("yes"), say("By the sea."))
    else:
        llm.script(*[use("lookup", query=place) for place in ("Busan", "Ulsan", "Jeju")], say("By the sea."))
    story = run(submission, llm, kind, [("ask", "Where?", "t", 4)], stored=False)
    expect_equal(story.returned, ["By the sea."], "with four calls needed and four allowed, the answers are")


@pytest.mark.points(1)
@pytest.mark.handout("limit")
def test_no_calls_are_refused(submission, llm):
    """recursion_limit below 1 raises a ValueError that names it and the value; the model is not called."""
    story = run(submission, llm, "agent", [("raises", "ask", "Where?", "t", 0)], stored=False)
    expect.refused("".join(story.raised), ValueError, mentioning=["recursion_limit", "0"])


@pytest.mark.points(1)
@pytest.mark.handout("limit")
def test_the_thread_after_its_limit(submission, llm):
    """The thread's next question gets its answer, by a request that the protocol allows."""
    answers = {2: "Good morning.", 3: "Good evening."}
    for limit, answer in answers.items():
        llm.script(*[use("lookup", query=place) for place in ("Busan", "Ulsan", "Jeju")][:limit], say(answer))
        story = run(submission, llm, "agent", [("ask", "Where?", "t", limit), ("ask", "Who are you?", "t")])
        expect_equal(story.returned[1:], [answer], "the second question's answers are")
        expect_text(llm.requests[-1], ["Who are you?"], "the last request")
        expect_legal(llm)


@pytest.mark.points(1)
@pytest.mark.handout("real")
def test_any_model_is_stopped(submission, llm):
    """With any model: at most three calls, and an answer."""
    llm.script(use("lookup", query="Busan"), use("weather", place="Busan"), say("It is green."), needed=False)
    story = run(submission, llm, "agent", [("ask", "What colour is the sky over Busan?", "t", 3)])
    expect.that(1 <= len(llm.requests) <= 3, f"the model was called {len(llm.requests)} times, at most 3 allowed")
    expect.that(isinstance(story.returned[0], str), f"the answer is {story.returned[0]!r}")


# --- threads ------------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("threads")
def test_a_thread_is_one_conversation(submission, llm):
    """The agent knows what was said on the thread, in another process too, and nothing from other threads."""
    llm.script(say("Hello Mina."), say("Hello Joon."), say("You are Mina."))
    first = [("ask", "I am Mina.", "a"), ("ask", "I am Joon.", "b")]
    story = run(submission, llm, "agent", first, [("ask", "Who am I?", "a")])
    expect_equal(story.returned, ["Hello Mina.", "Hello Joon.", "You are Mina."], "the answers are")
    expect.that("Mina" not in llm.requests[1].text, "thread b is told what was said on thread a")
    expect_text(llm.requests[2], ["I am Mina.", "Hello Mina.", "Who am I?"], "the request on thread a")
    expect.that("Joon" not in llm.requests[2].text, "thread a is told what was said on thread b")


@pytest.mark.points(1)
@pytest.mark.handout("threads")
def test_a_second_question_begins_a_fresh_round(submission, draw, llm):
    """A second question on the thread has all max_rounds lookups again, and no earlier findings."""
    found = facts(draw, 4)
    first, second, third, fourth = found
    answers = [say(first), say(f"no: {second}"), say("no"), say("A")]
    llm.script(*answers, say(third), say(f"no: {fourth}"), say("no"), say("B"))
    calls = [("ask", "Where is light?", "t"), ("ask", "Where else?", "t")]
    story = run(submission, llm, "research", calls, found=found, max_rounds=2)
    expect_equal(story.inputs, [first, second, third, fourth], "the lookups are")
    expect_equal(story.returned, ["A", "B"], "the answers are")
    expect_text(llm.requests[7], ["Where else?", found[third], found[fourth]], "the second answer's request")
    old = [fact for fact in (found[first], found[second]) if fact in llm.requests[7].text]
    expect.that(not old, f"the second answer's request holds findings of the first question: {old}")


@pytest.mark.points(1)
@pytest.mark.handout("threads")
def test_threads_between_each_other(submission, draw, llm):
    """A run on one thread starts and ends while another is interrupted: neither sees the other."""
    found = facts(draw, 3)
    first, second, other = found
    answers = [say(first), say(f"no: {second}"), fail(), say(other), say("yes"), say("B"), say("yes"), say("A")]
    llm.script(*answers)
    calls = [("raises", "ask", "What of a?", "a"), ("ask", "What of b?", "b"), ("resume", "a")]
    story = run(submission, llm, "research", calls, found=found)
    expect_equal(story.inputs, [first, second, other], "the lookups are")
    expect_equal(story.returned, ["B", "A"], "the answers are")
    expect.that(found[first] not in llm.requests[5].text, "thread b's request holds a finding of thread a")
    expect_text(llm.requests[7], ["What of a?", found[first], found[second]], "the request for thread a's answer")
    expect.that(found[other] not in llm.requests[7].text, "thread a's request holds a finding of thread b")


@pytest.mark.points(1)
@pytest.mark.handout("threads")
def test_a_run_is_given_up(submission, llm):
    """Killed inside a tool, then a new question instead of resume: it is answered by a legal request."""
    llm.script(use("lookup", query="Busan"), say("Good morning."))
    story = run(submission, llm, "agent", [("ask", "Where?", "t")], [("ask", "Who are you?", "t")], dies=1)
    expect_died(story)
    expect_equal(story.returned, ["Good morning."], "the answers are")
    expect_equal(story.inputs, ["Busan"], "the lookups are")
    expect_text(llm.requests[-1], ["Who are you?"], "the last request")
    expect_legal(llm)


# --- finished work stays finished ---------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("resume")
@pytest.mark.parametrize("kind", ["research", "agent"])
def test_a_failing_call_is_not_tried_again(submission, llm, kind):
    """The model fails once with 500: ask raises after that request, without a checkpointer too."""
    llm.script(say("Busan") if kind == "research" else use("lookup", query="Busan"), fail(), say("yes"), say("done"))
    story = run(submission, llm, kind, [("raises", "ask", "Where?", "t")], stored=False)
    expect.that(story.raised, f"the model failed, but ask returned {story.returned}")
    expect_calls(llm, 2, "the second one failed")


@pytest.mark.points(2)
@pytest.mark.handout("resume")
def test_research_goes_on_after_a_failing_call(submission, draw, llm):
    """The second judgement fails twice: earlier model calls and lookups are not repeated."""
    found = facts(draw, 2)
    first, second = found
    llm.script(say(first), say(f"no: {second}"), fail(), garbled(), say("yes"), say("done"))
    calls = [("raises", "ask", "Where is light?", "t"), ("raises", "resume", "t"), ("resume", "t")]
    story = run(submission, llm, "research", calls, found=found)
    expect_equal((len(story.raised), story.returned), (2, ["done"]), "exceptions and answers are")
    expect_equal(story.inputs, [first, second], "the lookups are")
    expect_calls(llm, 6, "the failing call three times, all others once")
    expect_text(llm.requests[5], ["Where is light?", *found.values()], "the answer's request")


@pytest.mark.points(1)
@pytest.mark.handout("resume")
def test_the_agent_goes_on_after_a_failing_call(submission, draw, llm):
    """The call after a tool fails: the tool is not run again, and its result is not lost."""
    ((place, fact),) = facts(draw, 1).items()
    llm.script(use("lookup", query=place), fail(), say("done"))
    calls = [("raises", "ask", "Where is light?", "t"), ("resume", "t")]
    story = run(submission, llm, "agent", calls, found={place: fact})
    expect_equal((len(story.raised), story.returned), (1, ["done"]), "exceptions and answers are")
    expect_equal(story.inputs, [place], "the lookups are")
    expect_text(llm.requests[2], ["Where is light?", fact], "the last request")
    expect_legal(llm)


@pytest.mark.points(3)
@pytest.mark.handout("kill")
def test_research_is_killed_and_goes_on(submission, draw, llm):
    """Killed inside the second lookup, resumed by another process: only that lookup is repeated."""
    found = facts(draw, 2)
    first, second = found
    llm.script(say(first), say(f"no: {second}"), say("yes"), say("done"))
    processes = [("ask", "Where is light?", "t")], [("resume", "t")]
    story = run(submission, llm, "research", *processes, found=found, dies=2)
    expect_died(story)
    expect_equal(story.inputs, [first, second, second], "the lookups are")
    expect_equal(story.returned, ["done"], "the answers are")
    expect_calls(llm, 4, "analysis, two judgements, answer, each once")
    expect_text(llm.requests[3], ["Where is light?", *found.values()], "the answer's request")


@pytest.mark.points(3)
@pytest.mark.handout("kill")
def test_the_agent_is_killed_and_goes_on(submission, draw, llm):
    """Killed inside the second tool, resumed by another process: only that tool is run again."""
    found = facts(draw, 2)
    first, second = found
    llm.script(use("lookup", query=first), use("lookup", query=second), say("done"))
    processes = [("ask", "Where is light?", "t")], [("resume", "t")]
    story = run(submission, llm, "agent", *processes, found=found, dies=2)
    expect_died(story)
    expect_equal(story.inputs, [first, second, second], "the lookups are")
    expect_equal(story.returned, ["done"], "the answers are")
    expect_calls(llm, 3, "two tool calls and an answer, each once")
    expect_text(llm.requests[2], ["Where is light?", *found.values()], "the last request")
    expect_legal(llm)


@pytest.mark.points(1)
@pytest.mark.handout("kill")
@pytest.mark.parametrize("kind", ["research", "agent"])
def test_a_slow_disk_loses_nothing(submission, llm, kind):
    """Killed inside the first lookup while writes take a second: the call before it is not repeated."""
    first = say("Busan") if kind == "research" else use("lookup", query="Busan")
    rest = [say("yes"), say("done")] if kind == "research" else [say("done")]
    warm_up = [say("Ulsan"), say("yes"), say("warm")] if kind == "research" else [say("warm")]
    llm.script(*warm_up, first, *rest)
    before = len(warm_up)
    processes = [("ask", "Warm?", "w"), ("slow disk",), ("ask", "Where?", "t")], [("resume", "t")]
    story = run(submission, llm, kind, *processes, dies=2 if kind == "research" else 1)
    expect_died(story)
    expect_equal(story.returned, ["warm", "done"], "the answers are")
    expect_equal(story.inputs[-2:], ["Busan", "Busan"], "the lookups are")
    expect_calls(llm, before + 1 + len(rest), f"{before} to warm up, {1 + len(rest)} for the run, each once")


@pytest.mark.points(1)
@pytest.mark.handout("resume")
@pytest.mark.parametrize("kind", ["research", "agent"])
def test_a_finished_run_asks_nothing(submission, llm, kind):
    """resume of a finished run returns its answer again, in another process too, without model calls."""
    llm.script(*([say("Busan"), say("yes")] if kind == "research" else []), say("done"))
    story = run(submission, llm, kind, [("ask", "Where?", "t"), ("resume", "t")], [("resume", "t")])
    expect_equal(story.returned, ["done"] * 3, "the answers are")
    expect_calls(llm, 3 if kind == "research" else 1, "only those of the run itself")


@pytest.mark.points(1)
@pytest.mark.handout("resume")
@pytest.mark.parametrize("stored", [True, False], ids=["unknown-thread", "not-stored"])
def test_nothing_to_resume(submission, llm, stored):
    """No run on the thread, or no checkpointer: a ValueError that names the thread."""
    llm.script(say("Hello."))
    calls = [("ask", "Good morning!", "here"), ("raises", "resume", "nowhere" if stored else "here")]
    story = run(submission, llm, "agent", calls, stored=stored)
    expect.refused("".join(story.raised), ValueError, mentioning=["nowhere" if stored else "here"])


@pytest.mark.points(1)
@pytest.mark.handout("real")
def test_any_model_is_resumed(submission, llm):
    """With any model, the lookup in which the process was killed is repeated with the same query."""
    llm.script(say("Busan"), say("yes"), say("By the sea."), needed=False)
    question = "Where are Korea's shipyards?"
    story = run(submission, llm, "research", [("ask", question, "t")], [("resume", "t")], dies=1, max_rounds=1)
    expect_died(story)
    expect.that(len(story.inputs) == 2 and story.inputs[0] == story.inputs[1], f"the lookups are {story.inputs}")
    expect_calls(llm, 3, "analysis, judgement, answer, each once")
    expect.that(story.returned and story.returned[-1], f"the answers are {story.returned}")


# --- approval -----------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("approval")
def test_a_draft_waits(submission, llm):
    """start calls the model once, returns its draft, and does not act."""
    llm.script(say("Dear Joon, come at six."))
    story = run(submission, llm, "approval", [("start", "Invite Joon for six.", "t")])
    expect_equal(story.returned, [{"status": "waiting", "draft": "Dear Joon, come at six."}], "start returned")
    expect_calls(llm, 1, "the draft")
    expect_text(llm.requests[0], ["Invite Joon for six."], "the request")
    expect_equal(story.used, [], "nothing was approved, but act was called:")


@pytest.mark.points(1)
@pytest.mark.handout("approval")
def test_a_draft_is_approved(submission, llm):
    """decide acts on the draft and returns the outcome without a model call, in another process too."""
    llm.script(say("Dear Joon, come at six."))
    story = run(submission, llm, "approval", [("start", "Invite Joon.", "t")], [("decide", "t", True)])
    expect_equal(story.inputs, ["Dear Joon, come at six."], "act was called with")
    expect_equal(story.returned[1:], [{"status": "done", "result": "sent: Dear Joon, come at six."}], "decide returned")
    expect_calls(llm, 1, "the draft, made once")


@pytest.mark.points(1)
@pytest.mark.handout("approval")
@pytest.mark.parametrize("edit", ["Dear Joon, come at seven.", ""], ids=["text", "empty"])
def test_a_draft_is_edited(submission, llm, edit):
    """act gets the edit instead of the draft; an empty text counts as an edit."""
    llm.script(say("Dear Joon, come at six."))
    story = run(submission, llm, "approval", [("start", "Invite Joon.", "t"), ("decide", "t", True, edit)])
    expect_equal(story.inputs, [edit], "act was called with")
    expect_equal(story.returned[1:], [{"status": "done", "result": f"sent: {edit}"}], "decide returned")


@pytest.mark.points(1)
@pytest.mark.handout("approval")
def test_a_draft_is_rejected(submission, llm):
    """act is not called and the result is None, with or without an edit."""
    llm.script(say("Dear Joon, come at six."), say("Dear Mina, come at six."))
    started = [("start", "Invite Joon.", "a"), ("start", "Invite Mina.", "b")]
    decided = [("decide", "a", False), ("decide", "b", False, "Come at seven.")]
    story = run(submission, llm, "approval", started + decided)
    expect_equal(story.used, [], "nothing was approved, but act was called:")
    expect_equal(story.returned[2:], [{"status": "rejected", "result": None}] * 2, "decide returned")


@pytest.mark.points(1)
@pytest.mark.handout("approval")
@pytest.mark.parametrize("first", [True, False], ids=["approved", "rejected"])
def test_a_second_decision_changes_nothing(submission, llm, first):
    """A second decide, in any process, returns the first outcome and does not act again."""
    llm.script(say("Dear Joon, come at six."))
    calls = [("start", "Invite Joon.", "t"), ("decide", "t", first), ("decide", "t", not first)]
    story = run(submission, llm, "approval", calls, [("decide", "t", True, "Come at nine.")])
    expect_equal(len(story.used), int(first), "the number of calls of act is")
    done = {"status": "done", "result": "sent: Dear Joon, come at six."}
    expect_equal(story.returned[1:], [done if first else {"status": "rejected", "result": None}] * 3, "decide returned")
    expect_calls(llm, 1, "the draft, made once")


@pytest.mark.points(2)
@pytest.mark.handout("approval")
def test_killed_while_acting(submission, llm):
    """Killed inside act: the next decide finishes the first decision, without a model call."""
    llm.script(say("Dear Joon, come at six."))
    processes = [("start", "Invite Joon.", "t")], [("decide", "t", True, "Come at nine.")], [("decide", "t", True)]
    story = run(submission, llm, "approval", *processes, dies=1)
    expect_died(story)
    expect_equal(story.inputs, ["Come at nine."] * 2, "act was called with")
    expect_equal(story.returned[1:], [{"status": "done", "result": "sent: Come at nine."}], "decide returned")
    expect_calls(llm, 1, "the draft, made once")


@pytest.mark.points(1)
@pytest.mark.handout("threads")
def test_drafts_wait_on_threads_of_their_own(submission, llm):
    """Three drafts wait at once, one is replaced, and they are decided in a different order."""
    llm.script(say("To Ara."), say("To Bom."), say("To Choi."), say("To Bom, again."))
    begun = [("start", f"Write to {who}.", who) for who in ("Ara", "Bom", "Choi", "Bom")]
    decided = [("decide", "Choi", True), ("decide", "Bom", True), ("decide", "Ara", False)]
    story = run(submission, llm, "approval", begun + decided)
    expect_equal(story.inputs, ["To Choi.", "To Bom, again."], "act was called with")
    expect_equal([each["status"] for each in story.returned[4:]], ["done", "done", "rejected"], "decide returned")
    for request, (_, text, _) in zip(llm.requests, begun, strict=True):
        expect_text(request, [text], "the request")


@pytest.mark.points(1)
@pytest.mark.handout("threads")
def test_a_new_request_on_a_decided_thread(submission, llm):
    """It is drafted, waits and is decided like the first."""
    llm.script(say("first"), say("second"))
    calls = [("start", "One.", "t"), ("decide", "t", True), ("start", "Two.", "t"), ("decide", "t", False)]
    story = run(submission, llm, "approval", calls)
    expect_equal(story.returned[2], {"status": "waiting", "draft": "second"}, "the second start returned")
    expect_equal(story.returned[3], {"status": "rejected", "result": None}, "the second decide returned")
    expect_equal(story.inputs, ["first"], "act was called with")


@pytest.mark.points(1)
@pytest.mark.handout("approval")
def test_nothing_to_decide(submission, llm):
    """No draft on the thread, because none was requested or the model failed: a ValueError that names it."""
    llm.script(fail(), say("Dear Joon"))
    calls = [("raises", "decide", "office", True), ("raises", "start", "Invite.", "post")]
    story = run(submission, llm, "approval", [*calls, ("raises", "decide", "post", True)])
    expect_calls(llm, 1, "start makes one, which fails; decide makes none")
    expect.that(not story.returned, f"no draft was made, but {story.returned} was returned")
    for raised, thread in ((story.raised[0], "office"), (story.raised[2], "post")):
        expect.refused(raised, ValueError, mentioning=[thread])


@pytest.mark.points(1)
@pytest.mark.handout("real")
def test_approval_with_any_model(submission, llm):
    """With any model, the draft waits for another process, which acts on exactly that draft."""
    llm.script(say("Dear Joon, come at six."), needed=False)
    story = run(submission, llm, "approval", [("start", "Invite Joon for six.", "t")], [("decide", "t", True)])
    expect_equal(story.inputs, [story.returned[0]["draft"]], "act was called with")
    expect_calls(llm, 1, "the draft, made once")
