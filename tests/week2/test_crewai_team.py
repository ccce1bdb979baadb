"""Graded tests of week2/crewai_team: what the model's server heard, what tools did, and what came back."""

from __future__ import annotations

import contextlib
import json
import re

import pytest

from grading import expect
from grading.ask.llm import AGENT_PROCESS, fail, garbled, late, say, together, use

pytestmark = [pytest.mark.needs("crewai"), pytest.mark.process(**AGENT_PROCESS)]


def work(module, url, name, topic, options):
    """A report of a team that can look things up, and what its tools were asked."""
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
    """A report of a team without tools."""
    return module.report(module.team(module.connect(url, name), **options), topic)


def run(submission, llm, scenario, topic="Busan", **options):
    return submission.run(scenario, llm.url, llm.name, topic, options)


def beginning(request):
    """The request up to the first message of the user: the same in all requests of an agent for one task."""
    roles = [message.get("role") for message in request.messages]
    return "\n".join(request.texts[: roles.index("user") + 1 if "user" in roles else 1])


def patience(llm):
    """The most requests that one agent made for one task."""
    beginnings = [beginning(request) for request in llm.requests]
    return max((beginnings.count(each) for each in beginnings), default=0)


def news(llm, number):
    """What a request says that the one before it did not."""
    before, request = llm.requests[number - 1 : number + 1]
    return "\n".join(text for text in request.texts if text not in before.texts)


def steps(report):
    """The outputs of a report's three steps, after a look at its form."""
    form = isinstance(report, dict) and set(report) == {"text", "steps"} and isinstance(report["text"], str)
    expect.that(form, f"a report is {{'text': str, 'steps': list}}, not {report!r}")
    found = report["steps"]
    form = isinstance(found, list) and all(isinstance(step, dict) and set(step) == {"role", "output"} for step in found)
    expect.that(form, f"the steps are dictionaries with role and output, not {found!r}")
    form = len(found) == 3 and all(isinstance(value, str) for step in found for value in step.values())
    expect.that(form, f"there are three steps of str, one for each task, not {found!r}")
    return [step["output"] for step in found]


def asked_times(llm, number):
    heard = len(llm.requests)
    expect.that(heard == number, f"the model should have been asked {number} times, not {heard}")


# --- three agents, one after another ------------------------------------------------------------------------------


@pytest.mark.points(2)
@pytest.mark.handout("crew")
@pytest.mark.limit(seconds=300)
def test_three_agents_write_a_report(submission, llm):
    """A researcher, an analyst and a writer, in this order; the last one's output is the text."""
    llm.script(say("The port is large."), say("The port matters."), say("Busan is a port."), needed=False)
    report = run(submission, llm, write).output
    outputs = steps(report)
    roles = [step["role"] for step in report["steps"]]
    named = all(part in role.lower() for part, role in zip(["research", "analy", "writ"], roles, strict=True))
    expect.that(named, f"the roles should be a researcher's, an analyst's and a writer's, not {roles}")
    expect.that(report["text"] == outputs[-1] != "", f"text should be the writer's {outputs[-1]!r}: {report['text']!r}")
    expect.that(len(llm.requests) >= 3, f"three agents, and the model was asked {len(llm.requests)} times")


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
    """Three requests, each with the topic; the analyst's holds the research, the writer's the analysis."""
    llm.script(say(research), say(analysis), say("Done."))
    outputs = steps(run(submission, llm, write, topic).output)
    asked_times(llm, 3)
    missing = [number for number, request in enumerate(llm.requests, 1) if topic not in request.text]
    expect.that(not missing, f"the topic {topic!r} is not in these of the three requests: {missing}")
    expect.that(research in llm.requests[1].text, f"the analyst was not told what the researcher found: {research!r}")
    expect.that(analysis in llm.requests[2].text, f"the writer was not told what the analyst found: {analysis!r}")
    expect.that(outputs == [research, analysis, "Done."], f"the outputs should be the replies, not {outputs}")


@pytest.mark.points(1)
@pytest.mark.handout("context")
@pytest.mark.limit(seconds=300)
def test_the_context_is_what_came_back(submission, llm):
    """With any model: a step's output is in a later request."""
    llm.script(say("It has a port."), say("The port matters."), say("Busan is a port."), needed=False)
    outputs = steps(run(submission, llm, write).output)
    for who, output in zip(["researcher", "analyst"], outputs, strict=False):
        told = any(output.strip() in request.text for request in llm.requests[1:])
        expect.that(told, f"nobody was told the {who}'s output: {output!r}")


def twice(module, url, name, topics):
    """Two reports of one crew; None for one that failed."""
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
    """Another topic, and nothing left of the first."""
    llm.script(*[say(f"answer{number}") for number in range(6)])
    _, second = submission.run(twice, llm.url, llm.name, ["Busan", "Gyeongju"]).output
    expect.that(steps(second) == ["answer3", "answer4", "answer5"], f"the second report: {second}")
    for request in llm.requests[3:]:
        expect.that("Gyeongju" in request.text, "the second topic is not in each request of the second report")
        left = [word for word in ("Busan", "answer0", "answer1", "answer2") if word in request.text]
        expect.that(not left, f"the second report's requests still hold {left} of the first")


# --- the client ---------------------------------------------------------------------------------------------------


def connected(module, url, name, keys):
    """A report through a client of this model."""
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
    expect.that(names == {name}, f"the server was asked for {sorted(names)}, not for {name!r}")
    expect.that(found == {sent}, f"the key that came with the requests is {sorted(found)}, not {sent!r}")


# --- tools --------------------------------------------------------------------------------------------------------


@pytest.mark.points(2)
@pytest.mark.handout("tools")
def test_only_the_researcher_has_the_tools(submission, llm):
    """Offered under its name and with its docstring, to the first agent and to nobody else."""
    llm.script(say("A."), say("B."), say("C."))
    run(submission, llm, work).require_answer()
    offered = [request.tools for request in llm.requests]
    expect.that(offered == [["lookup"], [], []], f"tools that were offered in the three requests: {offered}")
    description = llm.requests[0].body["tools"][0]["function"].get("description", "")
    expect.that("Look a place up in the gazetteer." in description, f"the tool is described as {description!r}")


@pytest.mark.points(2)
@pytest.mark.handout("tools")
def test_tools_are_run_and_results_come_back(submission, llm):
    """The model asks, the tool runs, the next request has the result; so twice, and the last request has both."""
    places = ["Busan", "울산"]
    llm.script(*[use("lookup", query=place) for place in places], say("Facts."), say("B."), say("C."))
    got = run(submission, llm, work).output
    expect.that(got["asked"] == places, f"the tool should have been asked for {places}, not for {got['asked']}")
    asked_times(llm, 5)
    expect.that("Busan lies by the sea." in news(llm, 1), "the researcher's second request lacks the tool's result")
    lost = [place for place in places if f"{place} lies by the sea." not in llm.requests[2].text]
    expect.that(not lost, f"the request after two look-ups has no result for {lost}")
    expect.that(steps(got["report"]) == ["Facts.", "B.", "C."], f"the outputs: {got['report']}")


def measure(module, url, name):
    """A report of a team with two tools, one of which answers anew each time, and what they were asked."""
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
    """One reply calls both, each gets its own argument, and both results come back."""
    llm.script(together(use("tide", harbour="Busan"), use("translate", text="항구")), say("A."), say("B."), say("C."))
    got = submission.run(measure, llm.url, llm.name).output
    called = sorted(map(tuple, got["asked"]))
    expect.that(called == [("tide", "Busan"), ("translate", "항구")], f"the tools were asked {called}")
    asked_times(llm, 4)
    expect.that("level 10" in news(llm, 1) and "«항구»" in news(llm, 1), f"the next request adds only {news(llm, 1)!r}")


@pytest.mark.points(1)
@pytest.mark.handout("tools")
def test_the_same_call_runs_again(submission, llm):
    """A tool that was asked before is asked again: the water has risen since."""
    llm.script(use("tide", harbour="Busan"), use("tide", harbour="Busan"), say("A."), say("B."), say("C."))
    got = submission.run(measure, llm.url, llm.name).output
    expect.that(len(got["asked"]) == 2, f"two calls of the model are two calls of the tool, not {len(got['asked'])}")
    expect.that("level 102" in llm.requests[2].text, "the second result has not reached the model")


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
    words = {  # in whatever way a framework's release puts it
        "raises": "Atlantis is on no map",
        "no-json": "json|argument|invalid|pars|error",
        "other-parameter": "missing|required|invalid|unexpected|query.*argument|argument.*query",
        "unknown-tool": "not found|unknown|no tool|no such|exist|available|only",
    }
    llm.script(calls[case], use("lookup", query="Ulsan"), say("Facts."), say("B."), say("C."))
    got = run(submission, llm, work).output
    asked_times(llm, 5)
    told = news(llm, 1)
    expect.that(re.search(words[case], told, re.IGNORECASE | re.DOTALL), f"what was wrong should be in {told!r}")
    wanted = ["Atlantis", "Ulsan"] if case == "raises" else ["Ulsan"]
    expect.that(got["asked"] == wanted, f"the tool should have been asked for {wanted}, not for {got['asked']}")
    expect.that("Ulsan lies by the sea." in llm.requests[2].text, "the next look-up's result has not come back")
    expect.that(steps(got["report"]) == ["Facts.", "B.", "C."], f"the outputs: {got['report']}")


@pytest.mark.points(2)
@pytest.mark.handout("limits")
@pytest.mark.parametrize("max_iter", [1, None], ids=["1", "default"])
def test_a_researcher_who_never_stops_is_stopped(submission, llm, max_iter):
    """After max_iter requests (5 unless given) there is one more without tools, and the others do their tasks."""

    def answer(request):
        if request.tools:
            return use("lookup", query=f"Place {len(request.messages)}")
        return say(f"Said after {len(request.messages)} messages.")

    llm.answer(answer)
    options = {} if max_iter is None else {"max_iter": max_iter}
    got = run(submission, llm, work, **options).output
    limit = max_iter or 5
    expect.that(patience(llm) <= limit + 1, f"with max_iter {limit} an agent asked {patience(llm)} times for one task")
    expect.that(1 <= len(got["asked"]) <= limit, f"with max_iter {limit} the tool was asked {len(got['asked'])} times")
    outputs = steps(got["report"])
    expect.that(all(output.startswith("Said") for output in outputs), f"the outputs: {outputs}")
    expect.that(outputs[0] in llm.requests[-2].text, "what the researcher said in the end did not reach the analyst")


def looked_up(llm):
    """The places in the look-ups that the model made and later heard of."""
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
    """What the tool of a team was asked, however the report ends."""
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
    """With any model, even one that says nothing but names of tools: max_iter + 1 requests an agent at most."""
    llm.script(*[use("lookup", query=f"Place {number}") for number in range(40)], needed=False)
    got = submission.run(endure, llm.url, llm.name, 2).output
    expect.that(patience(llm) <= 3, f"with max_iter 2 an agent asked {patience(llm)} times for one task")
    expect.that(1 <= len(llm.requests) <= 9, f"three agents with max_iter 2 asked {len(llm.requests)} times")
    called = looked_up(llm)
    few = f"the model heard of the look-ups for {sorted(called)}, and the tool was asked for {got['asked']}"
    expect.that(called <= set(got["asked"]), few)


@pytest.mark.points(1)
@pytest.mark.handout("failures")
@pytest.mark.parametrize("place", ["after-a-tool", "analysis", "writing", "no-json"])
def test_a_request_that_fails_is_not_repeated(submission, llm, place):
    """Status 500, or no JSON: an exception of the client's after this one request, and nothing is done twice."""
    before = {
        "after-a-tool": [use("lookup", query="Busan")],
        "analysis": [say("A.")],
        "writing": [say("A."), say("B.")],
        "no-json": [],
    }[place]
    failure = garbled() if place == "no-json" else fail(500, "out of coffee")
    llm.script(*before, failure, say("A."), say("B."), say("C."), say("D."))
    got = submission.run(endure, llm.url, llm.name, 5).output
    expect.that(got["error"], "no exception told the caller that the model had failed")
    told = place == "no-json" or "out of coffee" in got["error"]
    expect.that(told, f"the exception should have the server's words; it says {got['error']!r}")
    asked_times(llm, len(before) + 1)
    expect.that(len(got["asked"]) == (place == "after-a-tool"), f"the tool was asked {got['asked']}")


@pytest.mark.points(1)
@pytest.mark.handout("failures")
def test_a_crew_can_be_asked_again_after_a_failure(submission, llm):
    """The first report fails at the analyst, the second begins anew."""
    llm.script(say("old facts"), fail(), say("A."), say("B."), say("C."))
    first, second = submission.run(twice, llm.url, llm.name, ["Busan", "Gyeongju"]).output
    expect.that(first is None, f"the first report should have ended in an exception, and is {first}")
    expect.that(second is not None and steps(second) == ["A.", "B.", "C."], f"the second report: {second}")
    asked_times(llm, 5)
    left = any("old facts" in request.text for request in llm.requests[2:])
    expect.that(not left, "what the first report's researcher found is in the requests of the second")


@pytest.mark.points(1)
@pytest.mark.handout("failures")
def test_a_late_reply_is_waited_for(submission, llm):
    """The analyst takes a second to think, and is not asked twice."""
    llm.script(say("A."), late(say("B."), 1.0), say("C."))
    expect.that(steps(run(submission, llm, write).output) == ["A.", "B.", "C."], "the late reply was lost")
    asked_times(llm, 3)


def made(module, url, name, options):
    """Whether a team can be made so."""
    return module.team(module.connect(url, name), **options) is not None


@pytest.mark.points(1)
@pytest.mark.handout("limits")
@pytest.mark.parametrize(
    ("name", "value"), [("max_iter", 0), ("process", "parallel")], ids=["no-iteration", "unknown-process"]
)
def test_what_makes_no_sense_is_refused(submission, llm, name, value):
    """A ValueError that names the argument and the value."""
    llm.script()
    expect(submission.run(made, llm.url, llm.name, {name: value})).raises(ValueError, mentioning=[name, str(value)])


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
    """The writer is told what was wrong; research and analysis are not done again."""
    llm.script(say("A."), say("B."), say("Busan has fish."), say("Busan has ships."))
    got = submission.run(guarded, llm.url, llm.name, process).output
    expect.that(got["report"] is not None, f"the second draft passes, and still an exception came: {got['error']}")
    seen = list(dict.fromkeys(got["seen"]))
    expect.that(seen == ["Busan has fish.", "Busan has ships."], f"the guardrail saw {seen}")
    expect.that(steps(got["report"]) == ["A.", "B.", "Busan has ships."], f"the outputs: {got['report']}")
    asked_times(llm, 4)
    told = "It does not mention the vessels." in llm.requests[3].text
    expect.that(told, "the request for the second draft does not say what was wrong with the first")


@pytest.mark.points(2)
@pytest.mark.handout("guardrail")
def test_a_guardrail_gives_up_in_the_end(submission, llm):
    """Refused, and written again three times: then an exception, and no report that nobody approved."""
    llm.script(say("A."), say("B."), *[say(f"Draft {number}.") for number in range(10)])
    got = submission.run(guarded, llm.url, llm.name, "sequential").output
    expect.that(got["report"] is None, f"a report that never passed was delivered: {got['report']}")
    told = "does not mention the vessels" in got["error"]
    expect.that(told, f"the exception should have what was wrong; it says {got['error']!r}")
    asked_times(llm, 6)


# --- a manager ----------------------------------------------------------------------------------------------------


@pytest.mark.points(2)
@pytest.mark.handout("hierarchical")
def test_a_manager_gets_the_tasks(submission, llm):
    """Hierarchical: the same model manages, is offered to delegate, and each task knows the one before."""
    llm.script(say("Facts."), say("Points."), say("Report."))
    report = run(submission, llm, write, process="hierarchical").output
    expect.that(steps(report) == ["Facts.", "Points.", "Report."], f"the outputs: {report}")
    expect.that(report["text"] == "Report.", f"the text is the last output, not {report['text']!r}")
    asked_times(llm, 3)
    offered = [request.tools for request in llm.requests]
    delegates = all(any("deleg" in name.lower() for name in names) for names in offered)
    expect.that(delegates, f"a manager should be offered to delegate in each request; offered were {offered}")
    for before, request in zip(["Facts.", "Points."], llm.requests[1:], strict=True):
        expect.that(before in request.text, f"the manager was not told what came out before: {before!r}")


def roles(module, url, name, topic, options):
    """The roles in a crew that has reported on a topic, which may be part of them."""
    crew = module.team(module.connect(url, name), **options)
    module.report(crew, topic)
    return [agent.role for agent in crew.agents]


def coworkers(submission, llm):
    """Whom a manager can delegate to."""
    llm.script(say("A."), say("B."), say("C."))
    found = run(submission, llm, roles, process="hierarchical").output
    named = isinstance(found, list) and any("research" in role.lower() for role in found)
    expect.that(named, f"nobody's role contains research: {found}")
    return found


def delegation(request):
    """The name of the tool with which this request may delegate work, or None."""
    return next((name for name in request.tools if "deleg" in name.lower()), None)


@pytest.mark.points(3)
@pytest.mark.handout("hierarchical")
def test_a_manager_delegates(submission, llm):
    """The researcher is told the manager's words, uses the tool, and the manager hears what came of it."""
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
    expect.that(len(theirs) == 2, f"the researcher should have been asked twice for the work, not {len(theirs)} times")
    expect.that("By the water." in theirs[0].text, "the researcher was not told the context that the manager gave")
    expect.that(got["asked"] == ["Busan"], f"the tool should have been asked for Busan, not for {got['asked']}")
    outputs = steps(got["report"])
    expect.that(outputs == ["Reported: Forty cranes."] * 3, f"what was found did not come out: {outputs}")


@pytest.mark.points(2)
@pytest.mark.handout("hierarchical")
def test_a_manager_who_never_stops_is_stopped(submission, llm):
    """max_iter holds for the manager, too, who delegates without end."""
    somebody = coworkers(submission, llm)[0]

    def answer(request):
        name = delegation(request)
        if name is None or "cranes" in beginning(request):  # a coworker, who may be offered to delegate by mistake
            return say(f"Said after {len(request.messages)} messages.")
        work = {"task": f"Count {len(request.messages)} of {len(request.text)} cranes", "context": "None."}
        return use(name, **work, coworker=somebody)

    llm.answer(answer)
    report = run(submission, llm, write, process="hierarchical", max_iter=2).output
    expect.that(patience(llm) <= 3, f"with max_iter 2 somebody asked {patience(llm)} times for one task")
    steps(report)


@pytest.mark.points(2)
@pytest.mark.handout("hierarchical")
def test_a_manager_s_request_that_fails_is_not_repeated(submission, llm):
    """Status 500 at the manager's second task: two requests, and the client's exception."""
    llm.script(say("A."), fail(500, "out of coffee"), say("B."), say("C."), say("D."), say("E."))
    expect(run(submission, llm, write, process="hierarchical")).raises(Exception, mentioning=["out of coffee"])
    asked_times(llm, 2)


# --- the flow -----------------------------------------------------------------------------------------------------


def flow(module, url, name, min_words, max_rounds, topics):
    """What a flow gave for each topic; a dictionary with the error where it failed."""
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
    """One request, with the topic in it, and the reply is the result."""
    llm.script(say(draft), say("Another one, which nobody should have asked for."))
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
    """Fewer words than min_words: the next request holds the draft and the topic, until one is long enough."""
    llm.script(*[say(draft) for draft in short], say(enough), say("Never asked for, nor wanted by anybody."))
    results = run_flow(submission, llm, 5, 4, "Korea's harbours")
    expect.that(results == [enough], f"the result should be {enough!r}, not {results[0]!r}")
    asked_times(llm, len(short) + 1)
    for draft, request in zip(short, llm.requests[1:], strict=True):
        expect.that(draft in request.text, f"the draft {draft!r} was not sent back with the next request")
        expect.that("Korea's harbours" in request.text, "the topic is not in a request for another draft")


@pytest.mark.points(1)
@pytest.mark.handout("flow")
@pytest.mark.parametrize("max_rounds", [0, 3])
def test_the_flow_ends_when_the_model_never_gets_there(submission, llm, max_rounds):
    """Sent back max_rounds times; then the last draft is the result."""
    llm.script(say("The first draft of all."), *[say(f"Draft {number}.") for number in range(1, 9)])
    results = run_flow(submission, llm, 100, max_rounds)
    last = f"Draft {max_rounds}." if max_rounds else "The first draft of all."
    expect.that(results == [last], f"the result should be the last draft, {last!r}, not {results[0]!r}")
    asked_times(llm, max_rounds + 1)


@pytest.mark.points(1)
@pytest.mark.handout("flow")
def test_a_flow_may_go_round_often(submission, llm):
    """120 rounds are no endless loop."""
    llm.script(*[say(f"Draft {number}.") for number in range(121)], say("x"))
    results = run_flow(submission, llm, 100, 120)
    expect.that(results == ["Draft 120."], f"the result should be 'Draft 120.', not {results[0]!r}")
    asked_times(llm, 121)


@pytest.mark.points(1)
@pytest.mark.handout("flow")
def test_each_kickoff_has_its_own_rounds(submission, llm):
    """A flow is kicked off again: as many rounds as before, and nothing of the old drafts."""
    llm.script(*[say(f"draft{number}") for number in range(9)])
    results = run_flow(submission, llm, 5, 2, "Busan", "Gyeongju", "Jeju")
    expect.that(results == ["draft2", "draft5", "draft8"], f"three kickoffs of three drafts each gave {results}")
    asked_times(llm, 9)
    left = [word for word in ("Busan", "draft0", "draft1", "draft2") if word in llm.requests[3].text]
    expect.that(not left, f"the second kickoff begins with {left} of the first")


@pytest.mark.points(2)
@pytest.mark.handout("flow")
def test_a_draft_that_fails_is_an_exception(submission, llm):
    """Status 500: not repeated, not taken for a round; and the flow can be kicked off again."""
    llm.script(say("Short."), fail(500, "out of coffee"), say("Busan has ships."))
    first, second = run_flow(submission, llm, 3, 3, "Busan", "Gyeongju")
    expect.that(isinstance(first, dict), f"kickoff should have raised the client's exception; it gave {first!r}")
    expect.that("out of coffee" in first["error"], f"the exception says {first['error']!r}")
    expect.that(second == "Busan has ships.", f"the second kickoff gave {second!r}")
    asked_times(llm, 3)


def flow_made(module, url, name, max_rounds):
    """Whether a flow can be made so."""
    return module.ReportFlow(module.connect(url, name), 5, max_rounds) is not None


@pytest.mark.points(1)
@pytest.mark.handout("flow")
def test_a_negative_number_of_rounds_is_refused(submission, llm):
    """A ValueError that names max_rounds and the value."""
    llm.script()
    expect(submission.run(flow_made, llm.url, llm.name, -1)).raises(ValueError, mentioning=["max_rounds", "-1"])


@pytest.mark.points(2)
@pytest.mark.handout("flow")
@pytest.mark.limit(seconds=300)
def test_the_flow_keeps_its_word_with_any_model(submission, llm):
    """At most max_rounds + 1 drafts, and fewer only where the last one is long enough."""
    llm.script(say("One."), say("One two."), say("One two three."), needed=False)
    (result,) = run_flow(submission, llm, 30, 2, "the harbour of Busan")
    expect.that(isinstance(result, str), f"the result is a text, not {result!r}")
    heard = len(llm.requests)
    expect.that(1 <= heard <= 3, f"with max_rounds 2 there are at most 3 drafts, not {heard}")
    expect.that(heard == 3 or len(result.split()) >= 30, f"{len(result.split())} words after {heard} drafts of 3")
    missing = [number for number, request in enumerate(llm.requests, 1) if "the harbour of Busan" not in request.text]
    expect.that(not missing, f"the topic is not in these requests: {missing}")
