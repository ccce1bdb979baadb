"""Graded tests of week2/dspy_program: what the model was asked, what the tools did, what the program returned."""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import json
import re
import shutil
import tempfile
from pathlib import Path

import pytest

from grading import expect
from grading.ask.llm import AGENT_PROCESS, fail, late, say
from grading.ask.llm_protocol import Reply
from grading.explain.outcome import NotGradableHere

pytestmark = [pytest.mark.needs("dspy"), pytest.mark.process(**AGENT_PROCESS)]


# --- the scripted model -------------------------------------------------------------------------------------------
# It answers the fields that a request asks for, in the form that DSPy's adapter expects; all it remembers is requests.
# Each test uses one such model throughout, so that its requests can be replayed to recognise known mistakes.


def reply(request, **fields):
    """The fields in the form that the asking adapter reads: DSPy's ChatAdapter, XMLAdapter or JSONAdapter."""
    fields = {name: value if isinstance(value, (str, dict)) else str(value) for name, value in fields.items()}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    if "[[ ## completed ## ]]" in request.text:
        return say("".join(f"[[ ## {name} ## ]]\n{text}\n\n" for name, text in texts.items()) + "[[ ## completed ## ]]")
    if "XML tags" in request.texts[-1]:
        return say("\n".join(f"<{name}>\n{text}\n</{name}>" for name, text in texts.items()))
    return say(json.dumps(fields))


def asked(request):
    """The names of the fields that a request wants: "Respond with the … fields, starting with the field `…`"."""
    return re.findall(r"`\W*(\w+)\W*`", request.texts[-1].rpartition("Respond with")[2])


def tell(llm, answer, needed=True):
    """Answer each request with answer(request); a real model may answer instead if this one is not `needed`."""
    with contextlib.nullcontext() if needed else contextlib.suppress(NotGradableHere):
        llm.answer(answer)


def always(llm, needed=True, **fields):
    tell(llm, lambda request: reply(request, **fields), needed)


def turn_by_turn(llm, *turns, answer="It lies by the sea.", needed=True):
    """An agent's model: (tool, arguments) for each turn, repeating the last one, then the answer."""

    def speak(request):
        number = sum("answer" not in asked(each) for each in llm.requests)
        if "answer" in asked(request):
            return reply(request, reasoning="That is all.", answer=answer)
        tool, arguments = turns[min(number, len(turns)) - 1]
        return reply(request, next_thought="Let us see.", next_tool_name=tool, next_tool_args=arguments)

    tell(llm, speak, needed)


FINISH: tuple[str, dict[str, str]] = ("finish", {})


def heard(llm, number):
    """The request of this number, which may be -1; fails if the model was not asked that often."""
    count = len(llm.requests)
    expect.that(count > max(number, 0), f"the model was asked {count} times, at least {max(number, 0) + 1} required")
    return llm.requests[number]


def star(a, b):
    """An operation that no model knows but any model can infer from examples."""
    return a * b - 1


def star_rows(draw, number):
    """Distinct questions with their answers."""
    pairs = [(a, b) for a in range(3, 10) for b in range(3, 10)]
    chosen = [pairs[index] for index in draw.permutation(len(pairs)).tolist()[:number]]
    return [{"question": f"What is {a} star {b}?", "answer": star(a, b)} for a, b in chosen]


def pair(text):
    """The numbers of the last question in a text."""
    a, b = re.findall(r"(\d) star (\d)", text)[-1]
    return int(a), int(b)


def shown(request):
    """The demonstrations in a request: the question's numbers, and the full text of the reply."""
    said = list(zip(request.messages, request.texts, strict=True))
    return [
        (pair(before), text)
        for (_, before), (message, text) in itertools.pairwise(said)
        if message["role"] == "assistant"
    ]


def answer_in(text):
    found = re.search(r"answer\W+(-?\d+)", text)
    return int(found[1]) if found else None


def learner(request, enough=2):
    """A model that adds until it is shown enough examples of the right operation."""
    a, b = pair(request.texts[-1])
    right = [numbers for numbers, text in shown(request) if answer_in(text) == star(*numbers)]
    answer = star(a, b) if len(right) >= enough else a + b
    return reply(request, reasoning=f"By analogy, from {a} and {b}.", answer=answer)


KINDS = ("predict", "chain_of_thought")


# --- the client ---------------------------------------------------------------------------------------------------


def ask(module, url, model, questions, kind="predict", **client):
    """The answers of one program, each with its type. A `kind` of None is left out."""
    import dspy

    program = module.predictor() if kind is None else module.predictor(kind)
    with dspy.context(lm=module.connect(url, model, **client)):
        answers = [program(question=question).answer for question in questions]
    return [(answer, type(answer).__name__) for answer in answers]


@pytest.mark.points(1)
@pytest.mark.handout("client")
def test_a_question_is_one_request(submission, llm):
    """The question reaches the named model once, and its answer comes back."""
    always(llm, reasoning="It is known.", answer=42)
    got = submission.run(ask, llm.url, llm.name, ["What is six times seven?"])
    expect(got).equal_to([(42, "int")])
    expect.that(len(llm.requests) == 1, f"one question made {len(llm.requests)} requests")
    expect.that("What is six times seven?" in llm.requests[0].text, "the question is not in the request")
    expect.that(
        llm.requests[0].model == llm.name, f"the request names the model {llm.requests[0].model!r}, not {llm.name!r}"
    )


@pytest.mark.points(1)
@pytest.mark.handout("client")
def test_name_and_key_arrive_as_they_are(submission, llm):
    """Names with colons, slashes or a leading openai/ arrive unchanged; the default key is "none"."""
    always(llm, answer=42)
    for name, client in (
        ("qwen3:8b", {}),
        ("Qwen/Qwen3-8B", {"api_key": "sk-whetstone"}),
        ("openai/gpt-oss-20b", {}),
    ):
        submission.run(ask, llm.url, name, ["What is six times seven?"], **client).require_answer()
        sent, right = {(request.model, request.key) for request in llm.requests}, (name, client.get("api_key", "none"))
        expect.that(sent == {right}, f"model and key should be {right}; the server received {sent or 'nothing'}")


def ask_again(module, url, model):
    """The same question twice to one program and once to another with its own client, starting from an empty cache."""
    import dspy

    dspy.configure_cache(disk_cache_dir=tempfile.mkdtemp())
    for program, times in ((module.predictor("predict"), 2), (module.predictor("predict"), 1)):
        with dspy.context(lm=module.connect(url, model)):
            for _ in range(times):
                program(question="What is six times seven?")


@pytest.mark.points(2)
@pytest.mark.handout("client")
def test_nothing_comes_from_a_cache(submission, llm):
    """The same question asked three times makes three requests."""
    always(llm, answer=42)
    submission.run(ask_again, llm.url, llm.name).require_answer()
    expect.that(len(llm.requests) == 3, f"one question asked three times made {len(llm.requests)} requests")


@pytest.mark.points(2)
@pytest.mark.handout("client")
def test_an_error_of_the_server_raises_at_once(submission, llm):
    """Status 500 or 429 raises an exception after one request."""
    tell(llm, lambda request: fail(500 if "500" in request.texts[-1] else 429))
    for status, kind in itertools.product((500, 429), KINDS):
        got = submission.run(ask, llm.url, llm.name, [f"What is the square root of {status}?"], kind)
        expect.that(
            got.trouble is not None, f"the server answered {status}, but the program returned {got.result.output}"
        )
        expect.that(len(llm.requests) == 1, f"status {status}: the request was sent {len(llm.requests)} times")


@pytest.mark.points(1)
@pytest.mark.handout("client")
def test_a_late_answer_is_waited_for(submission, llm):
    """A slow model is waited for and asked only once."""
    tell(llm, lambda request: late(reply(request, answer=42), 0.4))
    expect(submission.run(ask, llm.url, llm.name, ["What is six times seven?"])).equal_to([(42, "int")])
    expect.that(len(llm.requests) == 1, f"one question made {len(llm.requests)} requests")


# --- signatures ---------------------------------------------------------------------------------------------------


@pytest.mark.points(2)
@pytest.mark.handout("signature")
def test_the_answer_is_an_int(submission, llm):
    """With any model, the answer to a question about a number is an int."""
    for kind in KINDS:
        always(llm, reasoning="Two and three.", answer=5, needed=False)
        ((answer, name),) = submission.run(ask, llm.url, llm.name, ["What is 2 + 3?"], kind).output
        expect.that(name == "int", f"the answer of predictor({kind!r}) is {answer!r}, of type {name}")
        expect.that("What is 2 + 3?" in heard(llm, 0).text, "the question is not in the request")


@pytest.mark.points(1)
@pytest.mark.handout("signature")
def test_any_int(submission, llm):
    """Negative numbers, 0 and large numbers work too."""
    tell(llm, lambda request: reply(request, answer=re.findall(r"equals (-?\d+)", request.text)[-1]))
    for answer in (-7, 0, 10**12):
        got = submission.run(ask, llm.url, llm.name, [f"What equals {answer}?"])
        expect(got).equal_to([(answer, "int")])


@pytest.mark.points(1)
@pytest.mark.handout("signature")
def test_what_is_no_int_raises(submission, llm):
    """If the model says "a great many", the program raises an exception."""
    for kind in KINDS:
        always(llm, reasoning="Who can count them?", answer=7)
        submission.run(ask, llm.url, llm.name, ["How many stars are there?"], kind).require_answer()
        always(llm, reasoning="Who can count them?", answer="a great many")
        got = submission.run(ask, llm.url, llm.name, ["How many stars are there?"], kind)
        expect.that(
            got.trouble is not None, f"the model said 'a great many', but the program returned {got.result.output}"
        )


def reason(module, url, model, question):
    import dspy

    with dspy.context(lm=module.connect(url, model)):
        prediction = module.predictor(kind="chain_of_thought")(question=question)
    return prediction.reasoning, prediction.answer


@pytest.mark.points(2)
@pytest.mark.handout("signature")
def test_a_chain_of_thought_reasons_first(submission, llm):
    """chain_of_thought asks for reasoning, then the answer, and returns both; predict, the default, asks for none."""
    always(llm, reasoning="Seven is one more than six.", answer=7)
    expect(submission.run(reason, llm.url, llm.name, "What follows six?")).equal_to(("Seven is one more than six.", 7))
    fields = asked(heard(llm, 0))
    expect.that(
        fields[:2] == ["reasoning", "answer"], f"the model was asked for the fields {', '.join(fields)}, in this order"
    )
    for kind, call in (("predict", "predictor('predict')"), (None, "predictor()")):
        submission.run(ask, llm.url, llm.name, ["What follows six?"], kind).require_answer()
        fields = asked(heard(llm, 0))
        expect.that("reasoning" not in fields, f"{call} asks for {', '.join(fields)}")


def makes(module, kind):
    """Whether there is a predictor of this kind."""
    return module.predictor(kind) is not None


@pytest.mark.points(1)
@pytest.mark.handout("signature")
def test_another_kind_is_refused(submission):
    """An unknown kind raises a ValueError that names kind and the value."""
    for kind in ("react", "Predict"):
        got, ordinary = (submission.run(makes, each) for each in (kind, "predict"))
        expect(got).raises(ValueError, mentioning=["kind", kind], unlike=ordinary)


def in_two_contexts(module, url):
    """One program, made while there is no model, called with two models."""
    import dspy

    program = module.predictor("predict")
    for model in ("first", "second"):
        with dspy.context(lm=module.connect(url, model)):
            program(question="What follows six?")


@pytest.mark.points(1)
@pytest.mark.handout("client")
def test_the_model_is_that_of_the_context(submission, llm):
    """A program is made without a model and asks the one in whose context it is called."""
    always(llm, answer=7)
    submission.run(in_two_contexts, llm.url).require_answer()
    models = [request.model for request in llm.requests]
    expect.that(
        models == ["first", "second"], f"called in the contexts of first and second, the program asked {models}"
    )


# --- an agent -----------------------------------------------------------------------------------------------------


def research(module, url, model, question, options):
    """The agent's answer, and its tool calls in order."""
    import dspy

    calls = []

    def lookup(query: str) -> str:
        """What the encyclopaedia says about a place."""
        calls.append(("lookup", query))
        if query == "Atlantis":
            raise RuntimeError("the encyclopaedia is out at the binder's")
        return f"{query} has a lighthouse."

    def distance(place: str) -> str:
        """How far away a place is."""
        calls.append(("distance", place))
        return f"{place} is 325 km away."

    agent = module.react_agent([lookup, distance], **options)
    answer = error = None
    with dspy.context(lm=module.connect(url, model)):
        try:
            answer = agent(question=question).answer
        except Exception as caught:
            error = f"{type(caught).__name__}: {caught}"
    return {"answer": answer, "calls": calls, "error": error}


def run_agent(submission, llm, question="What do you know of Busan?", **options):
    return submission.run(research, llm.url, llm.name, question, options).output


def finished(outcome):
    """Fail if the run ended in an exception."""
    expect.that(outcome["error"] is None, f"the run ended in an exception: {outcome['error']}")
    return outcome


def news(llm, number):
    """The lines of one request that were not in the request before it."""
    later, earlier = (collections.Counter(heard(llm, each).text.splitlines()) for each in (number, number - 1))
    return "\n".join((later - earlier).elements())


@pytest.mark.points(3)
@pytest.mark.handout("agent")
def test_an_agent_uses_its_tools(submission, llm):
    """The model is told its tools; each call runs with the model's arguments and its result is sent back."""
    turns = ("lookup", {"query": "Busan"}), ("distance", {"place": "부산"}), FINISH
    turn_by_turn(llm, *turns, answer="A port with a lighthouse.")
    outcome = finished(run_agent(submission, llm))
    expect.that(
        outcome["calls"] == [("lookup", "Busan"), ("distance", "부산")], f"the tool calls were {outcome['calls']}"
    )
    expect.that(outcome["answer"] == "A port with a lighthouse.", f"the answer is {outcome['answer']!r}")
    for word in ("lookup", "What the encyclopaedia says about a place.", "distance", "How far away a place is."):
        expect.that(word in heard(llm, 0).text, f"{word!r}, which tells of a tool, is not in the first request")
    found = ["Busan has a lighthouse.", "부산 is 325 km away."]
    for request in llm.requests:
        expect.that("What do you know of Busan?" in request.text, "a request lacks the question")
    expect.that(found[0] in heard(llm, 1).text, "the result of lookup is not in the request after it")
    expect.that(all(each in heard(llm, -1).text for each in found), "the request for the answer lacks tool results")


@pytest.mark.points(3)
@pytest.mark.handout("limit")
def test_a_model_that_never_stops_is_stopped(submission, llm):
    """With any model: at most max_iters + 1 requests (6 by default), then an answer."""
    for options in ({}, {"max_iters": 1}, {"max_iters": 3}):
        turn_by_turn(llm, ("lookup", {"query": "Busan"}), needed=False)
        outcome = finished(run_agent(submission, llm, **options))
        most = options.get("max_iters", 5) + 1
        expect.that(len(llm.requests) <= most, f"{options}: {len(llm.requests)} requests, at most {most} allowed")
        expect.that(len(outcome["calls"]) < most, f"{options}: {len(outcome['calls'])} tool calls in {most - 1} turns")
        expect.that(isinstance(outcome["answer"], str), f"the answer is {outcome['answer']!r}")


@pytest.mark.points(1)
@pytest.mark.handout("limit")
def test_all_turns_can_be_used(submission, llm):
    """A model that needs max_iters turns, five by default, gets them all."""
    for queries, options in (
        (["Busan", "Seoul", "Jeju"], {"max_iters": 3}),
        (["Busan", "Seoul", "Ulsan", "Mokpo", "Jeju"], {}),
        (["Busan", "Seoul", "Ulsan", "Mokpo", "Yeosu", "Sokcho", "Jeju"], {"max_iters": 7}),
    ):
        turn_by_turn(llm, *[("lookup", {"query": query}) for query in queries])
        outcome = finished(run_agent(submission, llm, **options))
        right = [("lookup", query) for query in queries]
        expect.that(outcome["calls"] == right, f"the tool calls were {outcome['calls']}")
        expect.that("Jeju has a lighthouse." in heard(llm, -1).text, "the last turn's result is lost")


@pytest.mark.points(1)
@pytest.mark.handout("limit")
def test_an_unreadable_reply_is_not_asked_for_again(submission, llm):
    """If the last reply, which should be the answer, cannot be read, there are still at most max_iters + 1 requests."""

    def speak(request):
        if "next_tool_name" not in asked(request):
            return say("Let me think about it.")
        return reply(request, next_thought="Look!", next_tool_name="lookup", next_tool_args={"query": "Busan"})

    tell(llm, speak)
    for max_iters in (1, 3):
        run_agent(submission, llm, max_iters=max_iters)
        count, most = len(llm.requests), max_iters + 1
        expect.that(1 <= count <= most, f"max_iters={max_iters}: {count} requests, at most {most} allowed")


@pytest.mark.points(2)
@pytest.mark.handout("adversity")
def test_a_tool_that_raises_does_not_end_the_run(submission, llm):
    """The model is told the exception's message and continues with its earlier findings."""
    turn_by_turn(llm, ("lookup", {"query": "Busan"}), ("lookup", {"query": "Atlantis"}), FINISH)
    outcome = finished(run_agent(submission, llm))
    expect.that("out at the binder's" in heard(llm, 2).text, "the next request lacks the exception's message")
    expect.that("Busan has a lighthouse." in heard(llm, -1).text, "the earlier result is lost")
    expect.that(len(outcome["calls"]) == 2, f"the model called the tool twice, it ran {len(outcome['calls'])} times")


WRONG = re.compile(r"error|exception|invalid|unknown|missing|must|not|wrong|no such|there is no|expect", re.IGNORECASE)


@pytest.mark.points(1)
@pytest.mark.handout("adversity")
@pytest.mark.parametrize(
    "wrong", [({"town": "Busan"}, {}), ('["Busan"]', "Busan, please")], ids=["do-not-fit", "are-no-object"]
)
def test_wrong_arguments_are_told(submission, llm, wrong):
    """The tool is not called, the next request says what was wrong, and the model can try again."""
    turn_by_turn(llm, *[("lookup", arguments) for arguments in wrong], ("lookup", {"query": "Busan"}), FINISH)
    outcome = finished(run_agent(submission, llm))
    expect.that(outcome["calls"] == [("lookup", "Busan")], f"the tool calls were {outcome['calls']}")
    for number, arguments in enumerate(wrong, start=1):
        added = news(llm, number)
        expect.that(WRONG.search(added), f"the request after lookup({arguments}) does not say what was wrong: {added}")


@pytest.mark.points(3)
@pytest.mark.handout("adversity")
def test_an_unknown_tool_is_told(submission, llm):
    """If a tool does not exist, the model's next request says so, and the run goes on."""
    calls = [("lookup", {"query": "Busan"}), ("weather", {"place": "Busan"}), ("distance", {"place": "Busan"})]
    turn_by_turn(llm, *calls, FINISH)
    outcome = finished(run_agent(submission, llm))
    right = [("lookup", "Busan"), ("distance", "Busan")]
    expect.that(outcome["calls"] == right, f"the tool calls were {outcome['calls']}")
    added = news(llm, 2)
    expect.that("weather" in added and WRONG.search(added), f"the next request does not say what was wrong: {added}")
    expect.that("Busan has a lighthouse." in heard(llm, -1).text, "the earlier result is lost")


@pytest.mark.points(2)
@pytest.mark.handout("adversity")
def test_an_agent_asks_no_second_time(submission, llm):
    """Status 500 in any turn raises after that one request; tools that have run are not run again."""

    def speak(request):
        turns = int(re.findall(r"after (\d) turns", request.text)[-1])
        if len(llm.requests) > turns:
            return fail()
        return reply(request, next_thought="Look!", next_tool_name="lookup", next_tool_args={"query": "Busan"})

    tell(llm, speak)
    for turns in (0, 1, 2):
        outcome = run_agent(submission, llm, f"What do you know after {turns} turns?", max_iters=2)
        expect.that(outcome["error"] is not None, f"the server broke down, but the answer is {outcome['answer']!r}")
        expect.that(
            len(llm.requests) == turns + 1, f"request {turns + 1} failed; {len(llm.requests)} requests were made"
        )
        expect.that(
            len(outcome["calls"]) == turns, f"the model called the tool {turns} times, it ran: {outcome['calls']}"
        )


# --- examples and the metric --------------------------------------------------------------------------------------


def split(module, rows):
    """Each example's inputs, labels and type; the type of the list; and the rows afterwards."""
    made = module.examples(iter(rows))
    parts = [(each.inputs().toDict(), each.labels().toDict(), type(each).__name__) for each in made]
    return parts, type(made).__name__, rows


@pytest.mark.points(1)
@pytest.mark.handout("examples")
def test_examples_declare_their_input(submission, draw):
    """The question is the input, the rest are labels; values, order and the given rows are unchanged."""
    for more in ({}, {"source": "a book", "level": 3}):
        rows = [row | more for row in star_rows(draw, 3)]
        rows.append({"question": "부산은 어디에 있습니까?", "answer": "바닷가에"} | more)
        parts, kind, after = submission.run(split, rows).output
        right = [({"question": row["question"]}, {"answer": row["answer"]} | more, "Example") for row in rows]
        expect.that(kind == "list" and parts == right, f"inputs, labels and type are {parts[:1]} …, not {right[:1]} …")
        expect.that(after == rows, "the given rows were changed")


def judge(module, pairs, trace):
    """The metric's verdict for each pair of sides: a dictionary of fields, or None for no prediction at all."""
    import dspy

    verdicts = []
    for expected, predicted in pairs:
        prediction = None if predicted is None else dspy.Prediction(**predicted)
        verdict = module.metric(dspy.Example(question="?", **expected).with_inputs("question"), prediction, *trace)
        verdicts.append((verdict, type(verdict).__name__))
    return verdicts


@pytest.mark.points(1)
@pytest.mark.handout("metric")
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (
            [("Busan", "busan"), (" Busan", "Busan\n"), ("New York", "new \t york"), ("부산", " 부산 ")],
            [("Busan", "Seoul"), ("Busan", "Busan is a port"), ("New York", "NewYork"), ("yes", "yes."), ("no", "")],
        ),
        ([(42, 42), (42, "42"), (0, "0"), (0, 0), (-7, "-7")], [(42, 43), ("42", "420"), (1, "-1"), (1, "1 km")]),
        (
            [(42, 42.0), ("42.0", 42), (" 42 ", 42), ("1e3", 1000), ("+5", "5"), ("007", "7"), ("1_000", 1000)],
            [(0.5, 0), ("3.0", 3.5), ("seven", 7), (0, ""), ([1, 2], 7), (10**400, 7), (10**400, "many")],
        ),
    ],
    ids=["text", "int", "what-float-reads"],
)
def test_the_metric(submission, right, wrong):
    """Numbers compare as numbers, other text without case and white space; always a bool, whatever the trace."""
    for pairs, verdict in ((right, True), (wrong, False)):
        pairs = pairs + [(predicted, expected) for expected, predicted in pairs]
        fields = [({"answer": expected}, {"answer": predicted}) for expected, predicted in pairs]
        for trace in ((), ([],), ([("step", {}, {})],)):
            verdicts = submission.run(judge, fields, trace).output
            others = [
                f"{expected!r} and {predicted!r}: {value!r}"
                for (expected, predicted), (value, _) in zip(pairs, verdicts, strict=True)
                if value != verdict
            ]
            expect.that(not others, f"the metric should be {verdict} for {'; '.join(others[:3])}")
            kinds = {kind for _, kind in verdicts}
            expect.that(kinds == {"bool"}, f"the metric returns {', '.join(sorted(kinds))}, not bool")


@pytest.mark.points(1)
@pytest.mark.handout("metric")
def test_a_missing_answer_is_wrong(submission):
    """An answer that is None or missing on either side, or no prediction: False, and no exception."""
    none, seven, reply_ = {"answer": None}, {"answer": 7}, {"reply": 7}
    sides = [({}, seven), (seven, {}), ({}, {}), (seven, reply_), (seven, None), ({}, None)]
    sides += [(none, seven), (seven, none), (none, none), ({"answer": "none"}, none), (none, {})]
    verdicts = submission.run(judge, sides, ()).output
    wrong = [f"{a} against {b}: {v!r}" for (a, b), (v, _) in zip(sides, verdicts, strict=True) if v is not False]
    expect.that(not wrong, f"the metric should be False for {'; '.join(wrong)}")


# --- evaluation ---------------------------------------------------------------------------------------------------


def score(module, url, model, rows, partial):
    """The score of a predictor by the test's own metric: whether the answer is right, or how close it is."""
    import dspy

    def right(example, prediction, trace=None):
        if partial:
            return 1 / (1 + abs(example.answer - prediction.answer))
        return example.answer == prediction.answer

    devset = [dspy.Example(**row).with_inputs("question") for row in rows]
    with dspy.context(lm=module.connect(url, model)):
        return module.evaluate(module.predictor("predict"), devset, right)


def half_wise(llm, wrong, failing=()):
    """A model that is off by one on some questions and breaks down on others."""

    def speak(request):
        numbers = pair(request.texts[-1])
        return fail() if numbers in failing else reply(request, answer=star(*numbers) + (numbers in wrong))

    tell(llm, speak)


def near(found, right):
    near_enough = isinstance(found, (int, float)) and abs(found - right) < 1e-3
    expect.that(near_enough, f"the score is {found!r}, not {right:.4f}")


@pytest.mark.points(2)
@pytest.mark.handout("evaluate")
def test_the_score_is_the_share_of_right_answers(submission, llm, draw):
    """The score is the share of right answers, from 0 to 1; each question is asked once."""
    rows = iter(star_rows(draw, 27))
    cases = [
        (list(itertools.islice(rows, number)), wrong) for number, wrong in ((7, 4), (3, 0), (3, 3), (1, 0), (13, 1))
    ]
    half_wise(llm, [pair(row["question"]) for rows, wrong in cases for row in rows[:wrong]])
    for rows, wrong in cases:
        number = len(rows)
        near(submission.run(score, llm.url, llm.name, rows, False).output, (number - wrong) / number)
        expect.that(len(llm.requests) == number, f"{number} questions made {len(llm.requests)} requests")


@pytest.mark.points(1)
@pytest.mark.handout("evaluate")
def test_a_metric_may_be_a_number(submission, llm, draw):
    """If the metric returns numbers from 0 to 1, the score is their mean."""
    rows = star_rows(draw, 5)
    half_wise(llm, [pair(row["question"]) for row in rows[:3]])
    near(submission.run(score, llm.url, llm.name, rows, True).output, (3 * 0.5 + 2) / 5)


@pytest.mark.points(2)
@pytest.mark.handout("evaluate")
def test_a_question_that_fails_counts_nothing(submission, llm, draw):
    """Two of six questions get a status 500: they count 0, the others as usual."""
    rows = star_rows(draw, 6)
    pairs = [pair(row["question"]) for row in rows]
    half_wise(llm, pairs[:1], failing=pairs[1:3])
    near(submission.run(score, llm.url, llm.name, rows, False).output, 3 / 6)


@pytest.mark.points(1)
@pytest.mark.handout("evaluate")
def test_a_server_that_is_down_is_no_score(submission, llm, draw):
    """If all of twelve questions fail, evaluate raises."""
    rows = star_rows(draw, 12)
    always(llm, answer=7)
    submission.run(score, llm.url, llm.name, rows, False).require_answer()
    tell(llm, lambda request: fail())
    got = submission.run(score, llm.url, llm.name, rows, False)
    expect.that(got.trouble is not None, f"every request got a status 500, but the score is {got.result.output}")


@pytest.mark.points(1)
@pytest.mark.handout("evaluate")
def test_no_examples_have_no_score(submission, llm, draw):
    """An empty devset raises a ValueError that names it."""
    always(llm, answer=1)
    got, ordinary = (submission.run(score, llm.url, llm.name, rows, False) for rows in ([], star_rows(draw, 1)))
    expect(got).raises(ValueError, mentioning=["devset"], unlike=ordinary)


@pytest.mark.points(1)
@pytest.mark.handout("evaluate")
def test_any_model_has_a_score(submission, llm):
    """With any model, the score is a number from 0 to 1, and every question is asked."""
    always(llm, answer=5, needed=False)
    rows = [{"question": f"What is {a} + {5 - a}?", "answer": 5} for a in range(3)]
    found = submission.run(score, llm.url, llm.name, rows, False).output
    expect.that(isinstance(found, float) and 0 <= found <= 1, f"the score is {found!r}")
    for row in rows:
        was_asked = any(row["question"] in request.text for request in llm.requests)
        expect.that(was_asked, f"{row['question']!r} was not asked")


# --- demonstrations -----------------------------------------------------------------------------------------------


def learn(module, url, model, kind, train, dev, options, accepted):
    """A predictor's answers before optimising, the optimised program's, and the predictor's own afterwards.

    The metric is the test's own: whether the answer is right and the question is `accepted` (None: all are).
    """
    import dspy

    def right(example, prediction, trace=None):
        return example.answer == prediction.answer and (accepted is None or example.question in accepted)

    program = module.predictor(kind)
    with dspy.context(lm=module.connect(url, model)):
        before = [program(question=question).answer for question in dev]
        trainset = [dspy.Example(**row).with_inputs("question") for row in train]
        better = module.optimise(program, trainset, right, **options)
        after = [better(question=question).answer for question in dev]
        still = [program(question=question).answer for question in dev]
    return {"before": before, "after": after, "still": still, "new": better is not program}


def run_learn(submission, llm, rows, train, kind="predict", options=None, accepted=None):
    """Train on the first `train` rows; also the requests made while learning and by the optimised program."""
    dev = [row["question"] for row in rows[train:]]
    options = options or {}
    answers = submission.run(learn, llm.url, llm.name, kind, rows[:train], dev, options, accepted).output
    number, requests = len(dev), llm.requests
    expect.that(len(requests) >= 3 * number, f"{number} questions, three times, made only {len(requests)} requests")
    return answers | {
        "learning": requests[number : len(requests) - 2 * number],
        "asking": requests[-2 * number : -number],
    }


@pytest.mark.points(4)
@pytest.mark.handout("optimise")
def test_demonstrations_make_it_better(submission, llm, draw):
    """A model that knows only what it is shown: no answer right before, all right after, on unseen questions."""
    for kind in KINDS:
        tell(llm, learner)
        rows = star_rows(draw, 13)
        learned, right = run_learn(submission, llm, rows, 8, kind), [row["answer"] for row in rows[8:]]
        for when, hits in (("before", 0), ("after", len(right))):
            found = sum(a == b for a, b in zip(learned[when], right, strict=True))
            expect.that(
                found == hits, f"{kind}, {when} optimising: {found} of {len(right)} answers are right, not {hits}"
            )


@pytest.mark.points(2)
@pytest.mark.handout("optimise")
def test_the_given_program_is_left_alone(submission, llm, draw):
    """With any model, optimise returns a new program; the given one still shows no demonstrations."""
    for kind in KINDS:
        tell(llm, learner, needed=False)
        learned = run_learn(submission, llm, star_rows(draw, 6), 4, kind)
        expect.that(learned["new"], "the returned program is the given one")
        demos = shown(heard(llm, -1))
        expect.that(not demos, f"the given program shows {len(demos)} demonstrations afterwards, none before")


@pytest.mark.points(2)
@pytest.mark.handout("optimise")
def test_how_many_demonstrations_are_shown(submission, llm, draw):
    """Bootstrapped demonstrations, with reasoning, up to one limit; labelled ones fill up to the other."""
    for train, most, right in (
        (9, {}, (4, 4)),
        (9, {"max_bootstrapped_demos": 2, "max_labeled_demos": 5}, (2, 5)),
        (9, {"max_bootstrapped_demos": 3, "max_labeled_demos": 3}, (3, 3)),
        (5, {"max_bootstrapped_demos": 2, "max_labeled_demos": 16}, (2, 5)),
    ):
        tell(llm, learner)
        learned = run_learn(submission, llm, star_rows(draw, train + 2), train, "chain_of_thought", most)
        for request in learned["asking"]:
            demos = shown(request)
            found = sum("analogy" in text for _, text in demos), len(demos)
            what = f"{train} training examples, {most or 'the defaults'}"
            expect.that(
                found == right, f"{what}: the numbers of demonstrations (bootstrapped, all) are {found}, not {right}"
            )
            expect.that(len({numbers for numbers, _ in demos}) == len(demos), f"{what}: an example is shown twice")
            wrong = [text for numbers, text in demos if answer_in(text) != star(*numbers)]
            expect.that(not wrong, f"{what}: a demonstration is wrong: {wrong}")


@pytest.mark.points(2)
@pytest.mark.handout("optimise")
def test_the_metric_chooses(submission, llm, draw):
    """Of the model's own answers, only those that the metric accepts are shown."""
    tell(llm, learner)
    rows = star_rows(draw, 10)
    accepted = [row["question"] for row in rows[4:6]]
    learned = run_learn(submission, llm, rows, 8, "chain_of_thought", accepted=accepted)
    made = {numbers for numbers, text in shown(learned["asking"][0]) if "analogy" in text}
    right = {pair(question) for question in accepted}
    expect.that(made == right, f"the metric accepts {sorted(right)}; {sorted(made)} were bootstrapped")


@pytest.mark.points(1)
@pytest.mark.handout("optimise")
def test_no_question_has_its_answer_in_sight(submission, llm, draw):
    """While bootstrapping, a question is shown other examples but never its own answer."""
    tell(llm, learner)
    learned = run_learn(submission, llm, star_rows(draw, 8), 6, options={"max_labeled_demos": 6})
    expect.that(learned["learning"], "no training question was asked")
    for request in learned["learning"]:
        numbers = pair(request.texts[-1])
        expect.that(numbers not in dict(shown(request)), f"{numbers} was asked with its own answer in sight")


@pytest.mark.points(1)
@pytest.mark.handout("optimise")
def test_a_training_question_that_fails_is_passed_over(submission, llm, draw):
    """Two training questions get a status 500: they are not bootstrapped, the others are."""
    rows = star_rows(draw, 10)
    failing = [pair(row["question"]) for row in rows[:2]]
    tell(llm, lambda request: fail() if pair(request.texts[-1]) in failing else learner(request))
    learned = run_learn(submission, llm, rows, 8, "chain_of_thought")
    made = [numbers for numbers, text in shown(learned["asking"][0]) if "analogy" in text]
    expect.that(len(made) == 4 and not set(made) & set(failing), f"{failing} failed; {made} were bootstrapped")
    expect.that(
        learned["after"] == [row["answer"] for row in rows[8:]], f"after optimising, the answers are {learned['after']}"
    )


# --- more than one attempt ----------------------------------------------------------------------------------------


def try_again(module, url, model, questions, rewards, threshold, attempts):
    """The answers of a refined predictor, and what the reward was called with; the reward is looked up by answer."""
    import dspy

    seen = []

    def reward(args, prediction):
        seen.append((dict(args), prediction.answer))
        return rewards[prediction.answer]

    # A partial, because dspy.Refine shows the model the reward's source, which may not exist for a function made here.
    program = module.refine(module.predictor("predict"), functools.partial(reward), threshold, attempts)
    with dspy.context(lm=module.connect(url, model)):
        return [program(question=question).answer for question in questions], seen


def attempt_by_attempt(llm, *cases):
    """A model that answers question n from the nth list, one entry per attempt, and gives advice if asked."""

    def speak(request):
        if "advice" in asked(request):
            return reply(request, discussion="It was wrong.", advice={"self": "Think again."})
        case, _ = pair(request.texts[-1])
        number = sum("advice" not in asked(each) and pair(each.texts[-1])[0] == case for each in llm.requests)
        answer = cases[case][min(number, len(cases[case])) - 1]
        return answer if isinstance(answer, Reply) else reply(request, answer=answer)

    tell(llm, speak)


def run_attempts(submission, llm, numbers, rewards, threshold, attempts):
    """Ask questions by number: the answers, what the reward saw, and how many attempts reached the model."""
    questions = [f"What is {number} star 4?" for number in numbers]
    got = submission.run(try_again, llm.url, llm.name, questions, rewards, threshold, attempts)
    answers, seen = got.output
    return answers, seen, sum("advice" not in asked(request) for request in llm.requests)


@pytest.mark.points(3)
@pytest.mark.handout("refine")
def test_the_first_good_enough_answer_is_taken(submission, llm):
    """The first reward at or above the threshold ends the attempts; no request follows."""
    rewards = {7: 0.0, 8: 0.25, 9: 0.5, 11: 1.0}
    cases = [([11, 7, 8], 1), ([7, 11, 8], 2), ([7, 8, 11], 3), ([7, 9, 11], 2)]
    attempt_by_attempt(llm, *[answers for answers, _ in cases])
    for case, (answers, number) in enumerate(cases):
        returned, seen, attempts = run_attempts(submission, llm, [case], rewards, 0.5, 3)
        given = f"threshold 0.5, rewards {[rewards[answer] for answer in answers]}"
        expect.that(
            returned == [answers[number - 1]],
            f"{given}: attempt {number} of {answers} is good enough, returned {returned}",
        )
        expect.that(attempts == number, f"{given}: attempt {number} is good enough; {attempts} were made")
        expect.that("advice" not in asked(heard(llm, -1)), f"{given}: a request followed the good answer")
        question = {"question": f"What is {case} star 4?"}
        expect.that(seen == [(question, answer) for answer in answers[:number]], f"the reward was called with {seen}")


@pytest.mark.points(2)
@pytest.mark.handout("refine")
def test_else_the_best_is_taken(submission, llm):
    """If no attempt reaches the threshold, all are made and the one with the highest reward is returned."""
    cases = [7, 9, 8], [9, 8, 7], [7, 8, 9]
    attempt_by_attempt(llm, *cases)
    for case, answers in enumerate(cases):
        returned, _, attempts = run_attempts(submission, llm, [case], {7: -1.0, 8: 0.25, 9: 0.5}, 0.9, 3)
        expect.that(returned == [9], f"of the answers {answers}, 9 has the highest reward; returned {returned}")
        expect.that(attempts == 3, f"three attempts are allowed, {attempts} were made")


@pytest.mark.points(2)
@pytest.mark.handout("refine")
def test_refining_makes_it_better(submission, llm):
    """A model that is right at the second attempt: each question gets two attempts."""
    attempt_by_attempt(llm, *[[7, 11]] * 5)
    returned, _, attempts = run_attempts(submission, llm, range(5), {7: 0.0, 11: 1.0}, 1.0, 4)
    expect.that(returned == [11] * 5, f"the right answer is 11; returned {returned}")
    expect.that(attempts == 10, f"five questions need ten attempts, {attempts} were made")


@pytest.mark.points(1)
@pytest.mark.handout("refine")
def test_an_attempt_that_fails_is_used_up(submission, llm):
    """A status 500 costs one attempt; the other attempts' answers are kept."""
    attempt_by_attempt(llm, [fail(), 9, 8], [9, fail(), 8], [8, 9, fail()])
    for case in range(3):
        returned, _, attempts = run_attempts(submission, llm, [case], {8: 0.25, 9: 0.5}, 0.9, 3)
        expect.that(returned == [9], f"9 has the highest reward; returned {returned}")
        expect.that(attempts == 3, f"three attempts are allowed, {attempts} were made")


@pytest.mark.points(1)
@pytest.mark.handout("refine")
def test_no_attempts_are_refused(submission, llm):
    """Fewer than one attempt raises a ValueError that names attempts and the value."""
    always(llm, answer=7)
    ordinary, *refused = (
        submission.run(try_again, llm.url, llm.name, ["What is 3 star 4?"], {7: 1.0}, 0.5, attempts)
        for attempts in (1, 0, -2)
    )
    for got, attempts in zip(refused, (0, -2), strict=True):
        expect(got).raises(ValueError, mentioning=["attempts", attempts], unlike=ordinary)


# --- save and load ------------------------------------------------------------------------------------------------


def keep(module, url, model, kind, train, question, as_path):
    """Ask a program, save it, move its folder, load it, ask again with another client; what was written."""
    import dspy

    program = module.predictor(kind)
    with dspy.context(lm=module.connect(url, model, api_key="sk-whetstone")):
        if train:
            trainset = [dspy.Example(**row).with_inputs("question") for row in train]
            program = module.optimise(program, trainset, lambda example, prediction, trace=None: True)
        program(question=question)
        folder = Path(tempfile.mkdtemp())
        module.save(program, folder / "program" if as_path else str(folder / "program"))
    moved = folder / "moved"
    shutil.move(folder / "program", moved)
    with dspy.context(lm=module.connect(url, model)):
        module.load(moved if as_path else str(moved))(question=question)
    written = b"".join(path.read_bytes() for path in [moved, *moved.rglob("*")] if path.is_file())
    return {"bytes": len(written), "key": b"sk-whetstone" in written}


def run_keep(submission, llm, kind, train, needed=True, as_path=True):
    """What was written, and the messages before saving and after loading."""
    always(llm, reasoning="By analogy.", answer=7, needed=needed)
    written = submission.run(keep, llm.url, llm.name, kind, train, "What is 3 star 4?", as_path).output
    asking = [request for request in llm.requests if pair(request.texts[-1]) == (3, 4)]
    expect.that(
        len(asking) > 1, f"the question should be asked before saving and after loading: {len(asking)} requests"
    )
    return written, asking[0].plain()["messages"], asking[-1].plain()["messages"]


@pytest.mark.points(2)
@pytest.mark.handout("save")
def test_a_loaded_program_is_the_saved_one(submission, llm, draw):
    """A loaded program sends the same messages, demonstrations included, wherever its folder is now."""
    for kind in KINDS:
        train = [row for row in star_rows(draw, 7) if pair(row["question"]) != (3, 4)]
        _, before, after = run_keep(submission, llm, kind, train)
        expect.that(len(before) > 2, "the saved program shows no demonstrations")
        expect.that(after == before, f"{kind}: the {len(after)} messages after differ from the {len(before)} before")


@pytest.mark.points(1)
@pytest.mark.handout("save")
def test_a_program_without_demonstrations_is_kept_too(submission, llm):
    """With any model: the same messages before and after; path is a str or a Path."""
    for kind, as_path in itertools.product(KINDS, (True, False)):
        _, before, after = run_keep(submission, llm, kind, [], needed=False, as_path=as_path)
        expect.that(after == before, f"{kind}: the {len(after)} messages after differ from the {len(before)} before")


@pytest.mark.points(1)
@pytest.mark.handout("save")
def test_no_key_is_written(submission, llm, draw):
    """The client is not saved: its key appears nowhere in the saved files."""
    written, _, _ = run_keep(submission, llm, "predict", star_rows(draw, 4))
    expect.that(written["bytes"], "nothing was written")
    expect.that(not written["key"], "the API key was saved with the program")
