"""Graded tests of week2/crewai_team: what the model's server received, what the tools did, and what was returned."""

from __future__ import annotations

import contextlib
import json
import re

import pytest

from grading import expect
from grading.ask.llm import AGENT_PROCESS, fail, garbled, late, say, together, use

pytestmark = [pytest.mark.needs("crewai"), pytest.mark.process(**AGENT_PROCESS)]


def work(module, url, name, topic, options):
    """A report by a team that can look things up, and the queries that its tool received."""
    asked = []

    def lookup(query: str) -> str:
        """Look a place up in the gazetteer."""
        asked.append(query)
        if query == "Atlantis":
            raise LookupError("Atlantis is on no map")
        return f"{query} lies by the sea."

    crew = module.team(module.connect(url, name), tools=[lookup], **options)
    return {"report": module.report(crew, topic), "asked": asked}


def write(module, url, name, topic, options):
    """A report by a team without tools."""
    return module.report(module.team(module.connect(url, name), **options), topic)


def run(submission, llm, scenario, topic="Busan", **options):
    return submission.run(scenario, llm.url, llm.name, topic, options)


def beginning(request):
    """The request up to the first user message: the same in all requests of an agent for one task."""
    roles = [message.get("role") for message in request.messages]
    return "\n".join(request.texts[: roles.index("user") + 1 if "user" in roles else 1])


def patience(llm):
    """The largest number of requests that one agent made for one task."""
    beginnings = [beginning(request) for request in llm.requests]
    return max((beginnings.count(each) for each in beginnings), default=0)


def news(llm, number):
    """What a request says that the one before it did not."""
    before, request = llm.requests[number - 1 : number + 1]
    return "\n".join(text for text in request.texts if text not in before.texts)


def steps(report):
    """The outputs of a report's three steps, after checking its form."""
    form = isinstance(report, dict) and set(report) == {"text", "steps"} and isinstance(report["text"], str)
    expect.that(form, f"a report should be {{'text': str, 'steps': list}}, not {report!r}")
    found = report["steps"]
    form = isinstance(found, list) and all(isinstance(step, dict) and set(step) == {"role", "output"} for step in found)
    expect.that(form, f"the steps should be dictionaries with role and output, not {found!r}")
    form = len(found) == 3 and all(isinstance(value, str) for step in found for value in step.values())
    expect.that(form, f"there should be three steps with str values, one for each task, not {found!r}")
    return [step["output"] for step in found]


def asked_times(llm, number):
    count = len(llm.requests)
    expect.that(count == number, f"the model should have been asked {number} times, not {count}")


# --- three agents, one after another ------------------------------------------------------------------------------


@pytest.mark.points(2)
@pytest.mark.handout("crew")
@pytest.mark.limit(seconds=300)
def test_three_agents_write_a_report(submission, llm):
    """A researcher, an analyst and a writer work in this order; the writer's output is the text."""
    llm.script(say("The port is large."), say("The port matters."), say("Busan is a port."), needed=False)
    report = run(submission, llm, write).output
    outputs = steps(report)
    roles = [step["role"] for step in report["steps"]]
    named = all(part in role.lower() for part, role in zip(["research", "analy", "writ"], roles, strict=True))
    expect.that(named, f"the roles should be a researcher's, an analyst's and a writer's, not {roles}")
    expect.that(report["text"] == outputs[-1] != "", f"text should be the writer's {outputs[-1]!r}: {report['text']!r}")
    expect.that(len(llm.requests) >= 3, f"there are three agents, but the model was asked {len(llm.requests)} times")


@pytest.mark.points(2)
@pytest.mark.handout("context")
@pytest.mark.parametrize(
    ("topic", "research", "analysis"),
    [
        ("부산의 항구", "- 자갈치 시장\n- 해운대\n\n  * 광안리", "관광이 중요합니다.\n\t그 다음은 항구."),
        ("the {port} of {topic}", 'Write {topic} or {x}, or {"a": [1]}', "{analysis} %s {{}} $1"),
    ],
    ids=["korean", "braces"],
)
def test_a_task_knows_what_the_one_before_found(submission, llm, topic, research, analysis):
    """Three requests with the topic; the analyst's holds the research, the writer's the analysis."""
    llm.script(say(research), say(analysis), say("Done."))
    outputs = steps(run(submission, llm, write, topic).output)
    asked_times(llm, 3)
    missing = [number for number, request in enumerate(llm.requests, 1) if topic not in request.text]
    expect.that(not missing, f"the topic {topic!r} is missing from these of the three requests: {missing}")
    expect.that(research in llm.requests[1].text, f"the analyst was not told the researcher's output: {research!r}")
    expect.that(analysis in llm.requests[2].text, f"the writer was not told the analyst's output: {analysis!r}")
    expect.that(outputs == [research, analysis, "Done."], f"the outputs should be the replies, not {outputs}")


@pytest.mark.points(1)
@pytest.mark.handout("context")
@pytest.mark.limit(seconds=300)
def test_the_context_is_what_came_back(submission, llm):
    """With any model, each step's output is in a later request."""
    llm.script(say("It has a port."), say("The port matters."), say("Busan is a port."), needed=False)
    outputs = steps(run(submission, llm, write).output)
    for who, output in zip(["researcher", "analyst"], outputs, strict=False):
        told = any(output.strip() in request.text for request in llm.requests[1:])
        expect.that(told, f"no later request holds the {who}'s output: {output!r}")


def twice(module, url, name, topics):
    """Two reports by one crew; None for one that failed."""
    crew = module.team(module.connect(url, name))
    reports = []
    for topic in topics:
        try:
            reports.append(module.report(crew, topic))
        except NotImplementedError:
            raise
        except Exception:
            reports.append(None)
    return reports


@pytest.mark.points(1)
@pytest.mark.handout("crew")
def test_a_crew_can_be_asked_again(submission, llm):
    """A second report has the new topic and nothing left over from the first."""
    llm.script(*[say(f"answer{number}") for number in range(6)])
    _, second = submission.run(twice, llm.url, llm.name, ["Busan", "Gyeongju"]).output
    expect.that(steps(second) == ["answer3", "answer4", "answer5"], f"the second report is {second}")
    for request in llm.requests[3:]:
        expect.that("Gyeongju" in request.text, "a request of the second report lacks its topic")
        left = [word for word in ("Busan", "answer0", "answer1", "answer2") if word in request.text]
        expect.that(not left, f"the second report's requests still hold {left} from the first")


# --- the client ---------------------------------------------------------------------------------------------------


def connected(module, url, name, keys):
    """A report through a client made with this name and key."""
    return module.report(module.team(module.connect(url, name, *keys)), "Busan")["text"]


@pytest.mark.points(1)
@pytest.mark.handout("connect")
@pytest.mark.parametrize(
    ("name", "keys", "sent"),
    [("openai/gpt-oss-20b", ["k-1234"], "k-1234"), ("Qwen/Qwen3-8B", [], "none")],
    ids=["openai", "qwen"],
)
def test_model_and_key_are_those_given(submission, llm, name, keys, sent):
    """Each request names the model as the server does, and carries the key."""
    llm.script(say("A."), say("B."), say("C."))
    expect(submission.run(connected, llm.url, name, keys)).equal_to("C.")
    names, found = {request.model for request in llm.requests}, {request.key for request in llm.requests}
    expect.that(names == {name}, f"the requests name the model {sorted(names)}, not {name!r}")
    expect.that(found == {sent}, f"the requests carry the key {sorted(found)}, not {sent!r}")


# --- tools --------------------------------------------------------------------------------------------------------


@pytest.mark.points(2)
@pytest.mark.handout("tools")
def test_only_the_researcher_has_the_tools(submission, llm):
    """The tool is offered by name and docstring, to the first agent only."""
    llm.script(say("A."), say("B."), say("C."))
    run(submission, llm, work).require_answer()
    offered = [request.tools for request in llm.requests]
    expect.that(offered == [["lookup"], [], []], f"the three requests offer the tools {offered}")
    description = llm.requests[0].body["tools"][0]["function"].get("description", "")
    expect.that("Look a place up in the gazetteer." in description, f"the tool is described as {description!r}")


@pytest.mark.points(2)
@pytest.mark.handout("tools")
def test_tools_are_run_and_results_come_back(submission, llm):
    """Two tool calls in turn: each runs, and the last request holds both results."""
    places = ["Busan", "울산"]
    llm.script(*[use("lookup", query=place) for place in places], say("Facts."), say("B."), say("C."))
    got = run(submission, llm, work).output
    expect.that(got["asked"] == places, f"the tool should have been called with {places}, not {got['asked']}")
    asked_times(llm, 5)
    expect.that("Busan lies by the sea." in news(llm, 1), "the researcher's second request lacks the tool's result")
    lost = [place for place in places if f"{place} lies by the sea." not in llm.requests[2].text]
    expect.that(not lost, f"the request after two lookups lacks the result for {lost}")
    expect.that(steps(got["report"]) == ["Facts.", "B.", "C."], f"the report is {got['report']}")


def measure(module, url, name):
    """A report by a team with two tools, one of which returns something new each time, and their calls."""
    asked = []

    def tide(harbour: str) -> str:
        """Measure the water level."""
        asked.append(("tide", harbour))
        return f"level {100 + len(asked)}"

    def translate(text: str) -> str:
        """Translate a text into Korean."""
        asked.append(("translate", text))
        return f"«{text}»"

    crew = module.team(module.connect(url, name), (tide, translate))
    return {"text": module.report(crew, "Tides")["text"], "asked": asked}


@pytest.mark.points(1)
@pytest.mark.handout("tools")
def test_two_tools_at_once(submission, llm):
    """One reply calls both tools; each gets its own argument, and both results are sent back."""
    llm.script(together(use("tide", harbour="Busan"), use("translate", text="항구")), say("A."), say("B."), say("C."))
    got = submission.run(measure, llm.url, llm.name).output
    called = sorted(map(tuple, got["asked"]))
    expect.that(called == [("tide", "Busan"), ("translate", "항구")], f"the tool calls were {called}")
    asked_times(llm, 4)
    expect.that("level 10" in news(llm, 1) and "«항구»" in news(llm, 1), f"the next request adds only {news(llm, 1)!r}")


@pytest.mark.points(1)
@pytest.mark.handout("tools")
def test_the_same_call_runs_again(submission, llm):
    """A repeated call runs the tool again: the water has risen since."""
    llm.script(use("tide", harbour="Busan"), use("tide", harbour="Busan"), say("A."), say("B."), say("C."))
    got = submission.run(measure, llm.url, llm.name).output
    expect.that(len(got["asked"]) == 2, f"the model called the tool twice, it ran {len(got['asked'])} times")
    expect.that("level 102" in llm.requests[2].text, "the second result did not reach the model")


# --- what goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.points(2)
@pytest.mark.handout("adversity")
@pytest.mark.parametrize("case", ["raises", "no-json", "other-parameter", "unknown-tool"])
def test_a_call_that_fails_is_told_to_the_model(submission, llm, case):
    """The next request says what was wrong, the researcher goes on, and the report is written."""
    calls = {
        "raises": use("lookup", query="Atlantis"),
        "no-json": use("lookup", '{"query": Busan'),
        "other-parameter": use("lookup", place="Busan"),
        "unknown-tool": use("browse", url="http://x"),
    }
    words = {  # however a release of the framework phrases it
        "raises": "Atlantis is on no map",
        "no-json": "json|argument|invalid|pars|error",
        "other-parameter": "missing|required|invalid|unexpected|query.*argument|argument.*query",
        "unknown-tool": "not found|unknown|no tool|no such|exist|available|only",
    }
    llm.script(calls[case], use("lookup", query="Ulsan"), say("Facts."), say("B."), say("C."))
    got = run(submission, llm, work).output
    asked_times(llm, 5)
    told = news(llm, 1)
    expect.that(
        re.search(words[case], told, re.IGNORECASE | re.DOTALL),
        f"the next request should say what was wrong, but adds only {told!r}",
    )
    wanted = ["Atlantis", "Ulsan"] if case == "raises" else ["Ulsan"]
    expect.that(got["asked"] == wanted, f"the tool should have been called with {wanted}, not {got['asked']}")
    expect.that("Ulsan lies by the sea." in llm.requests[2].text, "the next lookup's result did not reach the model")
    expect.that(steps(got["report"]) == ["Facts.", "B.", "C."], f"the report is {got['report']}")


@pytest.mark.points(2)
@pytest.mark.handout("limits")
@pytest.mark.parametrize("max_iter", [1, None], ids=["1", "default"])
def test_a_researcher_who_never_stops_is_stopped(submission, llm, max_iter):
    """After max_iter requests (default 5) there is one more without tools, and the others do their tasks."""

    def answer(request):
        if request.tools:
            return use("lookup", query=f"Place {len(request.messages)}")
        return say(f"Said after {len(request.messages)} messages.")

    llm.answer(answer)
    options = {} if max_iter is None else {"max_iter": max_iter}
    got = run(submission, llm, work, **options).output
    limit = max_iter or 5
    expect.that(
        patience(llm) <= limit + 1, f"with max_iter={limit} an agent made {patience(llm)} requests for one task"
    )
    expect.that(1 <= len(got["asked"]) <= limit, f"with max_iter={limit} the tool was called {len(got['asked'])} times")
    outputs = steps(got["report"])
    expect.that(all(output.startswith("Said") for output in outputs), f"the outputs are {outputs}")
    expect.that(outputs[0] in llm.requests[-2].text, "the researcher's final output did not reach the analyst")


def looked_up(llm):
    """The places in the lookup calls that later requests repeat."""
    places = set()
    for request in llm.requests:
        for message in request.messages:
            for call in message.get("tool_calls") or []:
                with contextlib.suppress(json.JSONDecodeError):
                    match json.loads(call["function"]["arguments"]):
                        case {"query": str(place)} if call["function"]["name"] == "lookup":
                            places.add(place)
    return places


def endure(module, url, name, max_iter):
    """The calls of a team's tool, whether the report succeeds or not."""
    asked = []

    def lookup(query: str) -> str:
        """Look a place up in the gazetteer."""
        asked.append(query)
        return f"{query} lies by the sea."

    try:
        module.report(module.team(module.connect(url, name), tools=[lookup], max_iter=max_iter), "Busan")
    except NotImplementedError:
        raise
    except Exception as error:
        return {"asked": asked, "error": f"{type(error).__name__}: {error}"}
    return {"asked": asked, "error": ""}


@pytest.mark.points(2)
@pytest.mark.handout("limits")
@pytest.mark.limit(seconds=300)
def test_no_model_keeps_a_team_busy(submission, llm):
    """With any model, even one that only calls tools: at most max_iter + 1 requests per agent."""
    llm.script(*[use("lookup", query=f"Place {number}") for number in range(40)], needed=False)
    got = submission.run(endure, llm.url, llm.name, 2).output
    expect.that(patience(llm) <= 3, f"with max_iter=2 an agent made {patience(llm)} requests for one task")
    expect.that(1 <= len(llm.requests) <= 9, f"three agents with max_iter=2 made {len(llm.requests)} requests")
    called = looked_up(llm)
    expect.that(
        called <= set(got["asked"]), f"the model called lookup for {sorted(called)}, but it ran for {got['asked']}"
    )


@pytest.mark.points(1)
@pytest.mark.handout("failures")
@pytest.mark.parametrize("place", ["after-a-tool", "analysis", "writing", "no-json"])
def test_a_request_that_fails_is_not_repeated(submission, llm, place):
    """Status 500, or a reply that is not JSON: the client's exception after that one request."""
    before = {
        "after-a-tool": [use("lookup", query="Busan")],
        "analysis": [say("A.")],
        "writing": [say("A."), say("B.")],
        "no-json": [],
    }[place]
    failure = garbled() if place == "no-json" else fail(500, "out of coffee")
    llm.script(*before, failure, say("A."), say("B."), say("C."), say("D."))
    got = submission.run(endure, llm.url, llm.name, 5).output
    expect.that(got["error"], "the model failed, but no exception was raised")
    told = place == "no-json" or "out of coffee" in got["error"]
    expect.that(told, f"the exception should contain the server's message; it says {got['error']!r}")
    asked_times(llm, len(before) + 1)
    expect.that(len(got["asked"]) == (place == "after-a-tool"), f"the tool was called with {got['asked']}")


@pytest.mark.points(1)
@pytest.mark.handout("failures")
def test_a_crew_can_be_asked_again_after_a_failure(submission, llm):
    """The first report fails at the analyst; the second begins anew."""
    llm.script(say("old facts"), fail(), say("A."), say("B."), say("C."))
    first, second = submission.run(twice, llm.url, llm.name, ["Busan", "Gyeongju"]).output
    expect.that(first is None, f"the first report should have ended in an exception, but is {first}")
    expect.that(second is not None and steps(second) == ["A.", "B.", "C."], f"the second report is {second}")
    asked_times(llm, 5)
    left = any("old facts" in request.text for request in llm.requests[2:])
    expect.that(not left, "the second report's requests hold the first report's research")


@pytest.mark.points(1)
@pytest.mark.handout("failures")
def test_a_late_reply_is_waited_for(submission, llm):
    """The analyst's reply takes a second: it is waited for, not requested again."""
    llm.script(say("A."), late(say("B."), 1.0), say("C."))
    expect.that(steps(run(submission, llm, write).output) == ["A.", "B.", "C."], "the late reply was lost")
    asked_times(llm, 3)


def made(module, url, name, options):
    """Whether a team can be made with these options."""
    return module.team(module.connect(url, name), **options) is not None


@pytest.mark.points(1)
@pytest.mark.handout("limits")
@pytest.mark.parametrize(
    ("name", "value"), [("max_iter", 0), ("process", "parallel")], ids=["no-iteration", "unknown-process"]
)
def test_what_makes_no_sense_is_refused(submission, llm, name, value):
    """An invalid argument raises a ValueError that names the argument and the value."""
    llm.script()
    got, ordinary = (submission.run(made, llm.url, llm.name, options) for options in ({name: value}, {}))
    expect(got).raises(ValueError, mentioning=[name, value], unlike=ordinary)


# --- the guardrail ------------------------------------------------------------------------------------------------


def guarded(module, url, name, process):
    """A report that must mention ships, and the drafts that the guardrail saw."""
    seen = []

    def guardrail(text):
        seen.append(text)
        return None if "ships" in text else "It does not mention the vessels."

    crew = module.team(module.connect(url, name), process=process, guardrail=guardrail)
    try:
        report = module.report(crew, "Busan")
    except NotImplementedError:
        raise
    except Exception as error:
        return {"report": None, "seen": seen, "error": str(error)}
    return {"report": report, "seen": seen, "error": ""}


@pytest.mark.points(2)
@pytest.mark.handout("guardrail")
@pytest.mark.parametrize("process", ["sequential", "hierarchical"])
def test_a_report_that_is_refused_is_written_again(submission, llm, process):
    """The writer is told what was wrong; research and analysis are not repeated."""
    llm.script(say("A."), say("B."), say("Busan has fish."), say("Busan has ships."))
    got = submission.run(guarded, llm.url, llm.name, process).output
    expect.that(got["report"] is not None, f"the second draft passes, but an exception was raised: {got['error']}")
    seen = list(dict.fromkeys(got["seen"]))
    expect.that(seen == ["Busan has fish.", "Busan has ships."], f"the guardrail saw {seen}")
    expect.that(steps(got["report"]) == ["A.", "B.", "Busan has ships."], f"the report is {got['report']}")
    asked_times(llm, 4)
    told = "It does not mention the vessels." in llm.requests[3].text
    expect.that(told, "the request for the second draft does not say what was wrong with the first")


@pytest.mark.points(2)
@pytest.mark.handout("guardrail")
def test_a_guardrail_gives_up_in_the_end(submission, llm):
    """Refused and rewritten three times: then an exception, and no unapproved report."""
    llm.script(say("A."), say("B."), *[say(f"Draft {number}.") for number in range(10)])
    got = submission.run(guarded, llm.url, llm.name, "sequential").output
    expect.that(got["report"] is None, f"a report that never passed was returned: {got['report']}")
    told = "does not mention the vessels" in got["error"]
    expect.that(told, f"the exception should say what was wrong; it says {got['error']!r}")
    asked_times(llm, 6)


# --- a manager ----------------------------------------------------------------------------------------------------


@pytest.mark.points(2)
@pytest.mark.handout("hierarchical")
def test_a_manager_gets_the_tasks(submission, llm):
    """Hierarchical: the same model manages, can delegate, and each task knows the previous output."""
    llm.script(say("Facts."), say("Points."), say("Report."))
    report = run(submission, llm, write, process="hierarchical").output
    expect.that(steps(report) == ["Facts.", "Points.", "Report."], f"the report is {report}")
    expect.that(report["text"] == "Report.", f"the text should be the last output, not {report['text']!r}")
    asked_times(llm, 3)
    offered = [request.tools for request in llm.requests]
    delegates = all(any("deleg" in name.lower() for name in names) for names in offered)
    expect.that(delegates, f"each request should offer the manager a tool to delegate; they offer {offered}")
    for before, request in zip(["Facts.", "Points."], llm.requests[1:], strict=True):
        expect.that(before in request.text, f"the manager was not told the previous output: {before!r}")


def roles(module, url, name, topic, options):
    """The roles in a crew after a report on a topic, which may be part of them."""
    crew = module.team(module.connect(url, name), **options)
    module.report(crew, topic)
    return [agent.role for agent in crew.agents]


def coworkers(submission, llm):
    """The roles that a manager can delegate to."""
    llm.script(say("A."), say("B."), say("C."))
    found = run(submission, llm, roles, process="hierarchical").output
    named = isinstance(found, list) and any("research" in role.lower() for role in found)
    expect.that(named, f"no role contains 'research': {found}")
    return found


def delegation(request):
    """The name of the tool with which this request may delegate work, or None."""
    return next((name for name in request.tools if "deleg" in name.lower()), None)


@pytest.mark.points(3)
@pytest.mark.handout("hierarchical")
def test_a_manager_delegates(submission, llm):
    """The researcher gets the manager's words and uses the tool; the manager gets the result."""
    researcher = next(role for role in coworkers(submission, llm) if "research" in role.lower())

    def answer(request):
        if "Count the cranes" in beginning(request):
            return say("Forty cranes.") if "lies by the sea" in request.text else use("lookup", query="Busan")
        if delegation(request) is None or "Forty cranes." in request.text:
            return say("Reported: Forty cranes.")
        return use(delegation(request), task="Count the cranes", context="By the water.", coworker=researcher)

    llm.answer(answer)
    got = run(submission, llm, work, process="hierarchical").output
    theirs = [request for request in llm.requests if "Count the cranes" in beginning(request)]
    expect.that(len(theirs) == 2, f"the researcher should make two requests for the delegated work, not {len(theirs)}")
    expect.that("By the water." in theirs[0].text, "the researcher was not told the manager's context")
    expect.that(got["asked"] == ["Busan"], f"the tool should have been called with Busan, not {got['asked']}")
    outputs = steps(got["report"])
    expect.that(outputs == ["Reported: Forty cranes."] * 3, f"the outputs should hold the result, but are {outputs}")


@pytest.mark.points(2)
@pytest.mark.handout("hierarchical")
def test_a_manager_who_never_stops_is_stopped(submission, llm):
    """max_iter also limits a manager who delegates without end."""
    somebody = coworkers(submission, llm)[0]

    def answer(request):
        name = delegation(request)
        if name is None or "cranes" in beginning(request):  # a coworker, who may be able to delegate by mistake
            return say(f"Said after {len(request.messages)} messages.")
        work = {"task": f"Count {len(request.messages)} of {len(request.text)} cranes", "context": "None."}
        return use(name, **work, coworker=somebody)

    llm.answer(answer)
    report = run(submission, llm, write, process="hierarchical", max_iter=2).output
    expect.that(patience(llm) <= 3, f"with max_iter=2 an agent made {patience(llm)} requests for one task")
    steps(report)


@pytest.mark.points(2)
@pytest.mark.handout("hierarchical")
def test_a_manager_s_request_that_fails_is_not_repeated(submission, llm):
    """Status 500 at the manager's second task: two requests, then the client's exception."""
    llm.script(say("A."), fail(500, "out of coffee"), say("B."), say("C."), say("D."), say("E."))
    expect(run(submission, llm, write, process="hierarchical")).raises(Exception, mentioning=["out of coffee"])
    asked_times(llm, 2)


# --- the flow -----------------------------------------------------------------------------------------------------


def flow(module, url, name, min_words, max_rounds, topics):
    """What a flow returned for each topic; a dictionary with the error if it failed."""
    made = module.ReportFlow(module.connect(url, name), min_words, max_rounds)
    results = []
    for topic in topics:
        try:
            results.append(made.kickoff(inputs={"topic": topic}))
        except NotImplementedError:
            raise
        except Exception as error:
            results.append({"error": str(error)})
    return results


def run_flow(submission, llm, min_words, max_rounds, *topics):
    return submission.run(flow, llm.url, llm.name, min_words, max_rounds, topics or ("Busan",)).output


@pytest.mark.points(1)
@pytest.mark.handout("flow")
@pytest.mark.parametrize(
    ("draft", "words"),
    [("부산은  항구가\n있는\t도시입니다", 4), ("Short.", 0)],
    ids=["just-enough", "none-wanted"],
)
def test_a_draft_that_is_long_enough_is_the_report(submission, llm, draft, words):
    """One request with the topic; the reply is the result."""
    llm.script(say(draft), say("A second draft, which nobody should have asked for."))
    results = run_flow(submission, llm, words, 3, "the harbour of Busan")
    expect.that(results == [draft], f"the result should be {draft!r}, not {results[0]!r}")
    asked_times(llm, 1)
    expect.that("the harbour of Busan" in llm.requests[0].text, "the topic is not in the request")


@pytest.mark.points(2)
@pytest.mark.handout("flow")
@pytest.mark.parametrize(
    ("short", "enough"),
    [
        (["부산은\n\n\n큰   도시", "항구, 시장, 그리고 바다"], "부산은 바다와 항구가 있는 도시"),
        (["an-extraordinarily-long-word, or two"], "five words are just enough"),
    ],
    ids=["korean", "letters"],
)
def test_a_short_draft_is_sent_back(submission, llm, short, enough):
    """If a draft has fewer than min_words words, the next request holds the draft and the topic."""
    llm.script(*[say(draft) for draft in short], say(enough), say("Never asked for, nor wanted by anybody."))
    results = run_flow(submission, llm, 5, 4, "Korea's harbours")
    expect.that(results == [enough], f"the result should be {enough!r}, not {results[0]!r}")
    asked_times(llm, len(short) + 1)
    for draft, request in zip(short, llm.requests[1:], strict=True):
        expect.that(draft in request.text, f"the next request lacks the draft {draft!r}")
        expect.that("Korea's harbours" in request.text, "a request for another draft lacks the topic")


@pytest.mark.points(1)
@pytest.mark.handout("flow")
@pytest.mark.parametrize("max_rounds", [0, 3])
def test_the_flow_ends_when_the_model_never_gets_there(submission, llm, max_rounds):
    """After max_rounds drafts have been sent back, the next one is the result."""
    llm.script(say("The first draft of all."), *[say(f"Draft {number}.") for number in range(1, 9)])
    results = run_flow(submission, llm, 100, max_rounds)
    last = f"Draft {max_rounds}." if max_rounds else "The first draft of all."
    expect.that(results == [last], f"the result should be the last draft, {last!r}, not {results[0]!r}")
    asked_times(llm, max_rounds + 1)


@pytest.mark.points(1)
@pytest.mark.handout("flow")
def test_a_flow_may_go_round_often(submission, llm):
    """120 rounds are not an endless loop."""
    llm.script(*[say(f"Draft {number}.") for number in range(121)], say("x"))
    results = run_flow(submission, llm, 100, 120)
    expect.that(results == ["Draft 120."], f"the result should be 'Draft 120.', not {results[0]!r}")
    asked_times(llm, 121)


@pytest.mark.points(1)
@pytest.mark.handout("flow")
def test_each_kickoff_has_its_own_rounds(submission, llm):
    """A second kickoff has all its rounds again and nothing of the old drafts."""
    llm.script(*[say(f"draft{number}") for number in range(9)])
    results = run_flow(submission, llm, 5, 2, "Busan", "Gyeongju", "Jeju")
    expect.that(results == ["draft2", "draft5", "draft8"], f"three kickoffs of three drafts each returned {results}")
    asked_times(llm, 9)
    left = [word for word in ("Busan", "draft0", "draft1", "draft2") if word in llm.requests[3].text]
    expect.that(not left, f"the second kickoff's first request holds {left} from the first")


@pytest.mark.points(2)
@pytest.mark.handout("flow")
def test_a_draft_that_fails_is_an_exception(submission, llm):
    """Status 500 is raised, not repeated or counted as a round; the flow can be kicked off again."""
    llm.script(say("Short."), fail(500, "out of coffee"), say("Busan has ships."))
    first, second = run_flow(submission, llm, 3, 3, "Busan", "Gyeongju")
    expect.that(isinstance(first, dict), f"kickoff should have raised the client's exception, but returned {first!r}")
    expect.that("out of coffee" in first["error"], f"the exception says {first['error']!r}")
    expect.that(second == "Busan has ships.", f"the second kickoff returned {second!r}")
    asked_times(llm, 3)


def flow_made(module, url, name, max_rounds):
    """Whether a flow can be made with this max_rounds."""
    return module.ReportFlow(module.connect(url, name), 5, max_rounds) is not None


@pytest.mark.points(1)
@pytest.mark.handout("flow")
def test_a_negative_number_of_rounds_is_refused(submission, llm):
    """A negative max_rounds raises a ValueError that names it and the value."""
    llm.script()
    got, ordinary = (submission.run(flow_made, llm.url, llm.name, rounds) for rounds in (-1, 0))
    expect(got).raises(ValueError, mentioning=["max_rounds", -1], unlike=ordinary)


@pytest.mark.points(2)
@pytest.mark.handout("flow")
@pytest.mark.limit(seconds=300)
def test_the_flow_keeps_its_word_with_any_model(submission, llm):
    """With any model: at most max_rounds + 1 drafts, fewer only if the last one is long enough."""
    llm.script(say("One."), say("One two."), say("One two three."), needed=False)
    (result,) = run_flow(submission, llm, 30, 2, "the harbour of Busan")
    expect.that(isinstance(result, str), f"the result should be a str, not {result!r}")
    drafts, words = len(llm.requests), len(result.split())
    expect.that(1 <= drafts <= 3, f"with max_rounds=2 there should be at most 3 drafts, not {drafts}")
    expect.that(drafts == 3 or words >= 30, f"the result has {words} words, but only {drafts} of 3 drafts were made")
    missing = [number for number, request in enumerate(llm.requests, 1) if "the harbour of Busan" not in request.text]
    expect.that(not missing, f"the topic is missing from these requests: {missing}")
