"""Graded tests of week2/llamaindex_workflow: what the model was asked, when and how often, and the results."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from grading import expect
from grading.ask.llm import AGENT_PROCESS, ScriptedModel, fail, garbled, held, late, say
from grading.ask.llm_protocol import ChatRequest, Reply

pytestmark = [pytest.mark.needs("llama_index"), pytest.mark.process(**AGENT_PROCESS)]


# --- a model that researches bridges ------------------------------------------------------------------------------

CITIES = (
    "Bergen", "Busan", "Cork", "Daegu", "Gdansk", "Genoa", "Ghent", "Incheon", "Jeju", "Lisbon", "Lyon", "Oslo",
    "Pohang", "Porto", "Prague", "Riga", "Seoul", "Split", "Turku", "Ulsan", "Venice", "Wroclaw", "Yeosu", "Zagreb",
)  # fmt: skip
SPLIT, ANSWER = "the question", "the answer"

Stage = str | int
"""SPLIT, the number of a sub-question, ANSWER, or "something else"."""


@dataclass(frozen=True)
class Part:
    """A sub-question, the document with its answer, and the answer."""

    question: str
    document: str
    answer: str


@dataclass(frozen=True)
class Research:
    """A question, the sub-questions that the model splits it into, and its final answer."""

    question: str
    parts: list[Part]
    answer: str

    @property
    def documents(self) -> list[str]:
        return [part.document for part in self.parts]

    @property
    def result(self) -> dict[str, str | list[str]]:
        return {"answer": self.answer, "sources": self.documents}


def bridges(draw, number, sets=1):
    """Questions about the bridges of this many cities each; no city occurs twice."""
    cities = [CITIES[index] for index in draw.permutation(len(CITIES)).tolist()]
    counts = [100 + count for count in draw.permutation(900).tolist()]
    made = []
    for _ in range(sets):
        chosen = [(cities.pop(), counts.pop()) for _ in range(number)]
        parts = [
            Part(
                f"How many bridges are there in {city}?",
                f"This text is about {city}. There are {count} bridges in it, and many of them are old.",
                f"It has {count} of them, says the text.",
            )
            for city, count in chosen
        ]
        made.append(Research(f"Which place has number {counts.pop()}?", parts, f"It is number {counts.pop()}."))
    return made[0] if sets == 1 else made


@dataclass
class Reader:
    """A model that splits each question as written, answers each sub-question and, from the answers, the question.

    `first`: what it replies instead at first, by stage: SPLIT, the number of a sub-question, or ANSWER.
    `seconds`: the delay of the reply to a sub-question.
    """

    llm: ScriptedModel
    all: tuple[Research, ...]
    first: dict[Stage, list[Reply]] = field(default_factory=dict)
    seconds: Callable[[int], float] = lambda place: 0.0

    def __post_init__(self) -> None:
        self.llm.answer(self.reply)

    def about(self, request: ChatRequest) -> tuple[Research, Stage]:
        """The question that a request is about, and its stage; a request that fits nowhere is "something else"."""
        text = request.text
        for research in self.all:
            if any(part.answer in text for part in research.parts):
                return research, ANSWER
        for research in self.all:
            for place, part in enumerate(research.parts):
                if part.question in text:
                    return research, place
        for research in self.all:
            if research.question in text:
                return research, SPLIT
        return self.all[0], "something else"

    def reply(self, request: ChatRequest) -> Reply:
        research, stage = self.about(request)
        before = sum(self.about(each) == (research, stage) for each in self.llm.requests) - 1
        if before < len(self.first.get(stage, [])):
            return self.first[stage][before]
        if isinstance(stage, int):
            return late(say(research.parts[stage].answer), self.seconds(stage))
        if stage == SPLIT:
            return say(json.dumps([part.question for part in research.parts], ensure_ascii=False))
        if stage == ANSWER:
            return say(research.answer if research.question in request.text else "What was the question?")
        return fail(400, "this request fits none of the questions")

    def asked(self, research: Research | None = None) -> dict[Stage, int]:
        """How often the model was asked at each stage."""
        return dict(
            Counter(stage for about, stage in map(self.about, self.llm.requests) if about == research or not research)
        )


def once(research):
    """How often the model should be asked at each stage if nothing fails."""
    return {SPLIT: 1, **dict.fromkeys(range(len(research.parts)), 1), ANSWER: 1}


def check_asked(reader, expected, research=None):
    """The model was asked this often at each stage."""
    asked = reader.asked(research)
    names = {SPLIT: "to split the question", ANSWER: "to answer the question"}
    wrong = [
        f"{names.get(stage, stage if isinstance(stage, str) else f'sub-question {stage + 1}')}: "
        f"{asked.get(stage, 0)} times, not {expected.get(stage, 0)}"
        for stage in [*expected, *(stage for stage in asked if stage not in expected)]
        if asked.get(stage, 0) != expected.get(stage, 0)
    ]
    expect.that(not wrong, f"the model was asked the wrong number of times. {'; '.join(wrong)}")


def check_raised(got, kind, *words):
    """The run raised an exception of this kind whose message contains these words."""
    trouble = got.trouble
    expect.that(trouble is not None, f"the run raised nothing but returned {got.result.output!r}", expected=kind)
    expect.that(kind in trouble.bases, f"the run raised {trouble.message}", expected=kind)
    missing = [word for word in words if word not in trouble.message]
    expect.that(not missing, f"the error does not say {missing[:1]}: {trouble.message}")


SOON = {"timeout": 20}  # seconds: for runs that a mistake leaves waiting, and that a busy machine may slow down


def research(module, url, model, documents, question, options):
    """The workflow's result for a question."""
    workflow = module.ResearchWorkflow(module.connect(url, model), documents, **options)

    async def main():
        return await workflow.run(question=question)

    return asyncio.run(main())


def run(submission, llm, about, documents=None, **options):
    return submission.run(research, llm.url, llm.name, documents or about.documents, about.question, options)


# --- the client ---------------------------------------------------------------------------------------------------


def complete(module, url, model, prompts, wait, *key):
    """The model's replies to some prompts, requested with or without `await`."""
    client = module.connect(url, model, *key)

    async def main():
        return [str(await client.acomplete(prompt)) for prompt in prompts]

    return asyncio.run(main()) if wait else [str(client.complete(prompt)) for prompt in prompts]


@pytest.mark.points(2)
@pytest.mark.handout("connect")
def test_the_client_reaches_the_model(submission, llm):
    """The prompt arrives unchanged, with the model's name, and the reply comes back."""
    llm.script(say("It lies by the sea."), needed=False)
    (reply,) = submission.run(complete, llm.url, llm.name, ["Where does Busan lie?"], False).output
    expect.that(len(llm.requests) == 1, f"{len(llm.requests)} requests for one prompt")
    (request,) = llm.requests
    expect.that(request.model == llm.name, f"the request names the model {request.model!r}, not {llm.name!r}")
    expect.that("Where does Busan lie?" in request.texts, f"the prompt is not among the messages {request.texts}")
    expect.that(reply, "the reply is empty")


@pytest.mark.points(1)
@pytest.mark.handout("connect")
@pytest.mark.parametrize(
    ("name", "key", "sent"),
    [("qwen3:8b", ["k-1234"], "k-1234"), ("openai/gpt-oss-20b", [], "none")],
    ids=["given", "default"],
)
def test_name_and_key_arrive_as_they_are(submission, llm, name, key, sent):
    """Each request names the model as the server does, and carries the key, by default "none"."""
    llm.script(say("By the sea."))
    submission.run(complete, llm.url, name, ["Where does Busan lie?"], False, *key).require_answer()
    found = [(request.model, request.key) for request in llm.requests]
    expect.that(found == [(name, sent)], f"model and key of the request should be {(name, sent)}, not {found}")


@pytest.mark.points(1)
@pytest.mark.handout("connect")
@pytest.mark.parametrize("wait", [False, True], ids=["complete", "acomplete"])
def test_the_client_does_not_try_again(submission, llm, wait):
    """Status 500 raises after one request."""
    llm.script(fail(), say("too late"))
    got = submission.run(complete, llm.url, llm.name, ["Where does Busan lie?"], wait)
    expect.that(len(llm.requests) == 1, f"the client sent {len(llm.requests)} requests")
    check_raised(got, "InternalServerError")


@pytest.mark.points(1)
@pytest.mark.handout("connect")
def test_the_client_keeps_no_answers(submission, llm):
    """The same prompt twice makes two requests."""
    llm.script(say("heads"), say("tails"))
    expect(submission.run(complete, llm.url, llm.name, ["Toss a coin."] * 2, True)).equal_to(["heads", "tails"])


# --- research -----------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("research")
@pytest.mark.parametrize("number", [1, 3])
def test_a_question_is_split_answered_and_put_together(submission, draw, llm, number):
    """n sub-questions make n + 2 requests, one answer and n sources."""
    about = bridges(draw, number)
    reader = Reader(llm, (about,))
    got = run(submission, llm, about)
    expect(got).equal_to(about.result)
    check_asked(reader, once(about))


@pytest.mark.points(2)
@pytest.mark.handout("research")
def test_each_part_is_answered_from_its_document_alone(submission, draw, llm):
    """A sub-question's request holds the best document and no other."""
    about = bridges(draw, 3)
    reader = Reader(llm, (about,))
    run(submission, llm, about).require_answer()
    for request in llm.requests:
        _, stage = reader.about(request)
        if isinstance(stage, int):
            found = [place + 1 for place, part in enumerate(about.parts) if part.document in request.text]
            expect.that(
                found == [stage + 1],
                f"the request for sub-question {stage + 1} holds the documents of the sub-questions {found}",
            )
    check_asked(reader, once(about))


@pytest.mark.points(2)
@pytest.mark.handout("research")
def test_the_answer_is_made_from_all_that_was_found(submission, draw, llm):
    """The last request holds the question and the answers to all sub-questions."""
    about = bridges(draw, 3)
    reader = Reader(llm, (about,))
    run(submission, llm, about).require_answer()
    check_asked(reader, once(about))
    text = llm.requests[-1].text
    missing = [place + 1 for place, part in enumerate(about.parts) if part.answer not in text]
    expect.that(not missing, f"the last request lacks the answers to the sub-questions {missing}")
    expect.that(about.question in text, "the last request lacks the question")


@pytest.mark.points(1)
@pytest.mark.handout("research")
def test_alike_sub_questions_are_answered_each(submission, draw, llm):
    """If the model asks the same sub-question twice, there are two requests and two sources."""
    about = bridges(draw, 2)
    about = Research(about.question, [about.parts[0], about.parts[1], about.parts[0]], about.answer)
    reader = Reader(llm, (about,))
    got = run(submission, llm, about)
    expect(got).equal_to(about.result)
    check_asked(reader, {SPLIT: 1, 0: 2, 1: 1, ANSWER: 1})


@pytest.mark.points(2)
@pytest.mark.handout("collect")
def test_there_may_be_nothing_to_split(submission, llm):
    """For an empty list the model is asked for the answer at once, and there are no sources."""
    llm.script(say("[]"), say("It is 42."))
    got = submission.run(research, llm.url, llm.name, ["A text."], "What is six times seven?", SOON)
    expect(got).equal_to({"answer": "It is 42.", "sources": []})
    expect.that("six times seven" in llm.requests[-1].text, "the last request lacks the question")


@pytest.mark.points(1)
@pytest.mark.handout("research")
def test_braces_are_letters_like_others(submission, llm):
    """Documents, questions and replies may hold { and }, which are not template fields."""
    part = Part("What does {f} print?", "The program {f} prints {question} and {}.", "It prints {document}.")
    about = Research('Is {"a": 1} printed by {question}?', [part], "No, {answer}.")
    reader = Reader(llm, (about,))
    got = run(submission, llm, about)
    check_asked(reader, once(about))
    expect.that(part.document in llm.requests[1].text, "the document did not reach the model unchanged")
    expect(got).equal_to(about.result)


@pytest.mark.points(1)
@pytest.mark.handout("real")
def test_any_model_can_research(submission, llm):
    """With any model: an answer, and a document and a request for each sub-question."""
    documents = ["Busan is a port in the south of Korea.", "Turku is a port in the south of Finland."]
    question = "In which countries are the ports Busan and Turku?"
    llm.script(
        say('["In which country is Busan?", "In which country is Turku?"]'),
        say("In one of them."),
        say("In one of them."),
        say("Korea and Finland."),
        needed=False,
    )
    result = submission.run(research, llm.url, llm.name, documents, question, {"timeout": 600, "max_retries": 5}).output
    expect.that(isinstance(result, dict) and set(result) == {"answer", "sources"}, f"the result is {result!r}")
    expect.that(isinstance(result["answer"], str) and result["answer"], f"the answer is {result['answer']!r}")
    sources = result["sources"]
    expect.that(isinstance(sources, list), f"the sources are not a list: {sources!r}")
    expect.that(all(source in documents for source in sources), f"the sources are not all documents: {sources!r}")
    expect.that(len(llm.requests) >= len(sources) + 2, f"{len(llm.requests)} requests for {len(sources)} sub-questions")
    unread = [source for source in sources if not any(source in request.text for request in llm.requests)]
    expect.that(not unread, f"the model was not given {unread[:1]}")


# --- retrieval ----------------------------------------------------------------------------------------------------


def check_source(submission, llm, documents, question, right):
    """This document is found for a sub-question, and the model reads it."""
    llm.script(say(json.dumps([question], ensure_ascii=False)), say("So it is."), say("Yes."))
    result = submission.run(research, llm.url, llm.name, documents, "Well?", {}).output
    expect.that(
        result["sources"] == [right], f"the wrong sources for {question!r}: {[each[:60] for each in result['sources']]}"
    )
    expect.that(right in llm.requests[1].text, "the document did not reach the model unchanged")


@pytest.mark.points(1)
@pytest.mark.handout("retrieval")
@pytest.mark.parametrize(
    ("question", "right"),
    [
        ("WHERE IS THE HARBOUR OF BUSAN?", 0),
        ("where is the harbour of (turku)?!", 2),
        ("부산 항구는 어디?", 3),
    ],
    ids=["capitals", "punctuation", "Korean"],
)
def test_words_are_found(submission, llm, question, right):
    """Words are found in upper or lower case, next to punctuation, in any script."""
    documents = [
        "Where is the harbour? In the east of Busan.",
        "Where is the harbour? In the west of Seoul.",
        "Where is the harbour? In the north of TURKU, and that is a city.",
        "항구 이야기: 부산 항구 남쪽.",
    ]
    check_source(submission, llm, documents, question, documents[right])


@pytest.mark.points(1)
@pytest.mark.handout("retrieval")
def test_common_words_decide_nothing(submission, draw, llm):
    """A document that repeats what all documents say is not the best one."""
    about = bridges(draw, 8)
    wordy = "There are many bridges in this text. Are there many old bridges in it? " * 60
    part = about.parts[3]
    check_source(submission, llm, [wordy, *about.documents, wordy + "Many, many."], part.question, part.document)


@pytest.mark.points(1)
@pytest.mark.handout("retrieval")
def test_documents_stay_whole(submission, draw, llm):
    """Documents of two thousand words are found, read and returned in full."""
    about = bridges(draw, 3)
    documents = [f"{'It goes on and on. ' * 400}{document} {'It went on.' * 20}" for document in about.documents]
    check_source(submission, llm, documents, about.parts[1].question, documents[1])


@pytest.mark.points(1)
@pytest.mark.handout("retrieval")
def test_the_sub_question_chooses(submission, draw, llm):
    """The sub-question chooses the document, not the question, which may name something else."""
    about = bridges(draw, 2)
    about = Research(about.parts[1].question, about.parts[:1], about.answer)
    other = bridges(draw, 1).parts[0].document.replace("text", "page")
    llm.script(say(json.dumps([about.parts[0].question])), say("So it is."), say("Yes."))
    got = submission.run(research, llm.url, llm.name, [other, *about.documents], f"Is it as in {other}", {})
    expect(got).equal_to({"answer": "Yes.", "sources": about.documents})


@pytest.mark.points(1)
@pytest.mark.handout("retrieval")
def test_there_is_always_a_best_document(submission, llm):
    """A sub-question that shares no word with any document still gets one."""
    documents = ["Busan has a harbour.", "Seoul has a river."]
    llm.script(say('["Quo vadis?"]'), say("I do not know."), say("Nowhere."))
    result = submission.run(research, llm.url, llm.name, documents, "Well?", SOON).output
    expect.that(
        len(result["sources"]) == 1 and result["sources"][0] in documents,
        f"the sources should be one of the documents, but are {result['sources']}",
    )


# --- at once ------------------------------------------------------------------------------------------------------


class Meeting:
    """Requests that are answered when this many are there, or when no other arrives for a long time.

    How long they take to arrive does not matter, so a busy machine is no obstacle.
    """

    PATIENCE = 5  # seconds without an arrival

    def __init__(self, number):
        self.changed, self.number = threading.Condition(), number
        self.arrived, self.waiting, self.most = 0, 0, 0

    def arrive(self):
        with self.changed:
            self.arrived, self.waiting = self.arrived + 1, self.waiting + 1
            self.most = max(self.most, self.waiting)
            self.changed.notify_all()

    def wait(self):
        with self.changed:
            while self.arrived < self.number and self.changed.wait(self.PATIENCE):
                pass
            self.number = 0  # from now on nobody waits
            self.waiting -= 1


@pytest.mark.points(3)
@pytest.mark.handout("parallel")
def test_all_sub_questions_are_asked_at_once(submission, draw, llm):
    """The last of twenty-four requests arrives before the first is answered."""
    number = len(CITIES)
    about = bridges(draw, number)
    reader, meetings = Reader(llm, (about,)), []

    def reply(request):
        match reader.about(request)[1]:
            case "the question":  # a new run
                meetings.append(Meeting(number))
            case "the answer":
                return say(f"at most {meetings[-1].most} at a time")
            case int():
                meetings[-1].arrive()
                return held(reader.reply(request), meetings[-1].wait)
        return reader.reply(request)

    llm.answer(reply)
    peak = run(submission, llm, about, timeout=100).output["answer"]
    expect.that(
        peak == f"at most {number} at a time",
        f"of {number} sub-questions, {peak} were waiting for the model",
        expected=f"all {number} at a time",
    )


@pytest.mark.points(2)
@pytest.mark.handout("collect")
def test_sources_are_in_the_order_of_the_sub_questions(submission, draw, llm):
    """The first sub-question is answered last, but its document still comes first."""
    about = bridges(draw, 4)
    Reader(llm, (about,), seconds=lambda place: (3 - place) * 0.15)
    expect(run(submission, llm, about)).equal_to(about.result)


def research_together(module, url, model, documents, questions):
    """One workflow's results for several questions, all at the same time."""
    workflow = module.ResearchWorkflow(module.connect(url, model), documents)

    async def one(question):
        return await workflow.run(question=question)

    async def main():
        return await asyncio.gather(*map(one, questions))

    return asyncio.run(main())


@pytest.mark.points(2)
@pytest.mark.handout("state")
def test_runs_at_the_same_time_share_nothing(submission, draw, llm):
    """Two questions to one workflow at once: each gets its own answer and sources."""
    both = bridges(draw, 2, sets=2)
    reader = Reader(llm, tuple(both), seconds=lambda place: place * 0.3)
    documents = [*both[0].documents, *both[1].documents]
    got = submission.run(research_together, llm.url, llm.name, documents, [about.question for about in both])
    expect(got).equal_to([about.result for about in both])
    for about in both:
        check_asked(reader, once(about), about)


def research_in_turn(module, url, model, documents, questions, options):
    """One workflow's results for several questions, one after the other; None if it raises."""
    workflow = module.ResearchWorkflow(module.connect(url, model), documents, **options)

    async def main():
        results = []
        for question in questions:
            try:
                results.append(await workflow.run(question=question))
            except Exception:
                results.append(None)
        return results

    return asyncio.run(main())


@pytest.mark.points(1)
@pytest.mark.handout("state")
@pytest.mark.parametrize("failing", [False, True], ids=["after-an-answer", "after-an-error"])
def test_a_run_leaves_nothing_behind(submission, draw, llm, failing):
    """After a run, successful or not, a workflow runs again as if new."""
    both = bridges(draw, 2, sets=2)
    reader = Reader(llm, tuple(both), first={1: [fail()]} if failing else {})
    options = {"max_retries": 0}
    documents = [*both[0].documents, *both[1].documents]
    questions = [both[0].question, both[0].question] if failing else [about.question for about in both]
    got = submission.run(research_in_turn, llm.url, llm.name, documents, questions, options)
    expect(got).equal_to([None, both[0].result] if failing else [about.result for about in both])
    if not failing:
        check_asked(reader, once(both[1]), both[1])


# --- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("retry")
@pytest.mark.parametrize("stage", ["split", "part", "answer"])
def test_a_failed_step_is_tried_again_alone(submission, draw, llm, stage):
    """The server fails once: that request is repeated once, all others are made once."""
    about = bridges(draw, 3)
    stage = {"split": SPLIT, "part": 1, "answer": ANSWER}[stage]
    reader = Reader(llm, (about,), first={stage: [late(fail(), 0.2)]})
    got = run(submission, llm, about)
    expect(got).equal_to(about.result)
    check_asked(reader, once(about) | {stage: 2})


@pytest.mark.points(1)
@pytest.mark.handout("retry")
@pytest.mark.parametrize("trouble", ["429", "garbled"])
def test_whatever_the_client_raises_is_a_failure(submission, draw, llm, trouble):
    """Status 429, or a server reply that is not JSON, is retried like any failure."""
    about = bridges(draw, 2)
    first = fail(429, "slow down") if trouble == "429" else garbled()
    reader = Reader(llm, (about,), first={0: [first]})
    got = run(submission, llm, about)
    expect(got).equal_to(about.result)
    check_asked(reader, once(about) | {0: 2})


@pytest.mark.points(1)
@pytest.mark.handout("json")
@pytest.mark.parametrize(
    "reply",
    ["I cannot split that.", '{"questions": ["What?"]}', '"What?"', "[1, 2]"],
    ids=["words", "object", "string", "numbers"],
)
def test_a_reply_that_is_no_list_of_strings_is_a_failure(submission, draw, llm, reply):
    """A reply that is not a JSON list of strings: the model is asked to split the question again."""
    about = bridges(draw, 2)
    reader = Reader(llm, (about,), first={SPLIT: [say(reply)]})
    got = run(submission, llm, about)
    expect(got).equal_to(about.result)
    check_asked(reader, once(about) | {SPLIT: 2})


@pytest.mark.points(1)
@pytest.mark.handout("retry")
@pytest.mark.parametrize("stage", ["split", "part", "answer"])
def test_in_the_end_the_client_s_error_is_raised(submission, draw, llm, stage):
    """The server keeps failing: max_retries + 1 requests, no finished step repeated, no new one started."""
    about = bridges(draw, 3)
    number = draw.choice([1, 2])
    stage = {"split": SPLIT, "part": 2, "answer": ANSWER}[stage]
    reader = Reader(llm, (about,), first={stage: [late(fail(500, "the model broke down"), 0.1)] * 9})
    got = run(submission, llm, about, max_retries=number)
    expected = {SPLIT: {SPLIT: number + 1}, 2: {SPLIT: 1, 0: 1, 1: 1, 2: number + 1}}
    check_raised(got, "InternalServerError", "the model broke down")
    check_asked(reader, expected.get(stage, once(about) | {ANSWER: number + 1}))


@pytest.mark.points(1)
@pytest.mark.handout("json")
def test_in_the_end_the_reply_that_was_no_list_is_shown(submission, draw, llm):
    """Three replies that are not lists end in a ValueError that shows the last one."""
    about = bridges(draw, 1)
    reader = Reader(llm, (about,), first={SPLIT: [say(f"I cannot do that, says {name}.") for name in "ABC"]})
    got = run(submission, llm, about)
    check_raised(got, "ValueError", "I cannot do that, says C.")
    check_asked(reader, {SPLIT: 3})


def research_with_each(module, url, model, documents, question, numbers):
    """The results of workflows with these max_retries, all made beforehand, for a question; None if one raises."""
    client = module.connect(url, model)
    workflows = [module.ResearchWorkflow(client, documents, max_retries=number) for number in numbers]

    async def main():
        results = []
        for workflow in workflows:
            try:
                results.append(await workflow.run(question=question))
            except Exception:
                results.append(None)
        return results

    return asyncio.run(main())


@pytest.mark.points(2)
@pytest.mark.handout("retry")
def test_each_workflow_has_its_own_number_of_retries(submission, draw, llm):
    """One workflow with no retries and one with three, side by side."""
    about = bridges(draw, 1)
    reader = Reader(llm, (about,), first={SPLIT: [fail()] * 2})
    got = submission.run(research_with_each, llm.url, llm.name, about.documents, about.question, [0, 3])
    expect(got).equal_to([None, about.result])
    check_asked(reader, {SPLIT: 3, 0: 1, ANSWER: 1})


def makes(module, url, model, documents, options):
    """Whether a workflow can be made with these options."""
    return module.ResearchWorkflow(module.connect(url, model), documents, **options) is not None


@pytest.mark.points(1)
@pytest.mark.handout("retry")
@pytest.mark.parametrize(
    ("documents", "options", "words"),
    [([], {}, ["documents", "[]"]), (["A text."], {"max_retries": -1}, ["max_retries", "-1"])],
    ids=["documents", "max_retries"],
)
def test_what_makes_no_sense_is_refused(submission, llm, documents, options, words):
    """No documents, or a negative max_retries: a ValueError that names the argument and the value."""
    llm.script()
    ordinary = submission.run(makes, llm.url, llm.name, ["A text."], {"max_retries": 0})
    got = submission.run(research, llm.url, llm.name, documents, "Well?", options)
    expect(got).raises(ValueError, mentioning=words, unlike=ordinary)


# --- time ---------------------------------------------------------------------------------------------------------


def research_within(module, url, model, documents, question, timeout, seconds):
    """How a run ends, and whether within this many seconds, measured inside the event loop."""
    workflow = module.ResearchWorkflow(module.connect(url, model), documents, timeout=timeout)

    async def main():
        started = time.monotonic()
        try:
            end = await workflow.run(question=question)
        except Exception as error:
            end = type(error).__name__
        return {"end": end, "in time": time.monotonic() - started < seconds}

    return asyncio.run(main())


@pytest.mark.points(1)
@pytest.mark.handout("timeout")
@pytest.mark.parametrize("stage", ["split", "part", "answer"])
def test_a_late_server_does_not_defeat_the_timeout(submission, draw, llm, stage):
    """The run ends with a WorkflowTimeoutError before the model's late answer arrives."""
    about, seconds = bridges(draw, 2), 10
    stage = {"split": SPLIT, "part": 1, "answer": ANSWER}[stage]
    Reader(llm, (about,), first={stage: [late(say("at last"), seconds)]})
    outcome = submission.run(research_within, llm.url, llm.name, about.documents, about.question, 0.5, seconds).output
    expect.that(
        outcome["end"] == "WorkflowTimeoutError", f"with a timeout of 0.5 s the run ended with {outcome['end']!r}"
    )
    expect.that(outcome["in time"], f"the error was raised only after the model's answer, which was {seconds} s late")


# --- review -------------------------------------------------------------------------------------------------------


def review(module, url, model, pairs, options):
    """One workflow, a simultaneous run for each (request, response): the draft that is shown, and the result.

    Responses are sent only when all drafts are there; None means no response.
    """
    from llama_index.core.workflow import HumanResponseEvent, InputRequiredEvent

    workflow = module.ReviewWorkflow(module.connect(url, model), **options)

    async def draft(handler):
        async for event in handler.stream_events():
            if isinstance(event, InputRequiredEvent):
                return event.prefix
        return None

    async def main():
        handlers = [workflow.run(request=request) for request, _ in pairs]
        drafts = [await draft(handler) for handler in handlers]
        for handler, (_, response) in zip(handlers, pairs, strict=True):
            if response is not None:
                handler.ctx.send_event(HumanResponseEvent(response=response))
        return [{"draft": draft, "result": await handler} for draft, handler in zip(drafts, handlers, strict=True)]

    return asyncio.run(main())


@pytest.mark.points(1)
@pytest.mark.handout("review")
@pytest.mark.parametrize(
    "response", ["yes", "ok", "approve", " Yes\n"], ids=["yes", "ok", "approve", "as-people-write"]
)
def test_an_approved_draft_is_final(submission, llm, response):
    """The draft is shown, a yes makes it the result, and the model is asked once."""
    llm.script(say("Dear neighbours, come at eight."), say("Something else."))
    got = submission.run(review, llm.url, llm.name, [("Invite the neighbours.", response)], SOON)
    expect.that(
        len(llm.requests) == 1, f"the model was asked {len(llm.requests)} times: {[r.texts[-1:] for r in llm.requests]}"
    )
    expect.that("Invite the neighbours." in llm.requests[0].text, "the request did not reach the model")
    draft = "Dear neighbours, come at eight."
    expect(got).equal_to([{"draft": draft, "result": draft}])


@pytest.mark.points(1)
@pytest.mark.handout("review")
@pytest.mark.parametrize(
    "response",
    ["저녁 {여덟} 시로!", "Is that ok", "yes, but shorter", ""],
    ids=["comment", "ok-inside", "yes-but", "empty"],
)
def test_anything_else_is_a_comment(submission, llm, response):
    """The model gets draft and response, and its reply is the result."""
    llm.script(say("Dear {neighbours}, come at eight."), say("Come at eight."), say("Something else."))
    got = submission.run(review, llm.url, llm.name, [("Invite the neighbours.", response)], SOON)
    expect(got).equal_to([{"draft": "Dear {neighbours}, come at eight.", "result": "Come at eight."}])
    expect.that(len(llm.requests) == 2, f"the model was asked {len(llm.requests)} times")
    text = llm.requests[1].text
    expect.that("Dear {neighbours}, come at eight." in text, "the second request lacks the draft")
    expect.that(response in text, f"the second request lacks the response {response!r}")


@pytest.mark.points(1)
@pytest.mark.handout("review")
@pytest.mark.parametrize("response", ["approve", "Put the year into it."], ids=["approved", "commented"])
def test_any_model_can_be_reviewed(submission, llm, response):
    """With any model: one request for the draft, and a second one for a comment."""
    llm.script(say("Busan was a port."), say("Busan was a port in 1876."), needed=False)
    pairs = [("Write a sentence about Busan.", response)]
    ((draft, result),) = (
        tuple(each.values()) for each in submission.run(review, llm.url, llm.name, pairs, {"timeout": 600}).output
    )
    expect.that(isinstance(draft, str) and isinstance(result, str), f"the draft is {draft!r}, the result {result!r}")
    if response == "approve":
        expect.that(len(llm.requests) == 1, f"the model was asked {len(llm.requests)} times")
        expect.that(result == draft, f"the draft {draft!r} was approved, but {result!r} is the result")
    else:
        expect.that(len(llm.requests) == 2, f"the model was asked {len(llm.requests)} times")
        text = llm.requests[1].text
        expect.that(draft in text and response in text, "the second request lacks the draft or the response")


@pytest.mark.points(1)
@pytest.mark.handout("state")
def test_reviews_at_the_same_time_share_nothing(submission, llm):
    """Three drafts of one workflow wait for their readers; each response reaches its own draft."""
    names = ("Ada", "Bo", "Cy")

    def reply(request):
        name = next(
            (name for name in names if f"Greet {name}." in request.text or f"Hello {name}!" in request.text), "?"
        )
        return say(f"Good day, {name}." if f"Hello {name}!" in request.text else f"Hello {name}!")

    llm.answer(reply)
    pairs = [(f"Greet {name}.", response) for name, response in zip(names, ("yes", "more formal", "ok"), strict=True)]
    expect(submission.run(review, llm.url, llm.name, pairs, SOON)).equal_to(
        [
            {"draft": "Hello Ada!", "result": "Hello Ada!"},
            {"draft": "Hello Bo!", "result": "Good day, Bo."},
            {"draft": "Hello Cy!", "result": "Hello Cy!"},
        ]
    )


@pytest.mark.points(1)
@pytest.mark.handout("review")
@pytest.mark.parametrize("stage", ["draft", "comment"])
def test_a_review_tries_nothing_again(submission, llm, stage):
    """The client's error is raised after one request for the draft and at most one for the comment."""
    replies = [fail(), say("too late")] if stage == "draft" else [say("Come at eight."), fail(), say("too late")]
    llm.script(*replies)
    got = submission.run(review, llm.url, llm.name, [("Invite the neighbours.", "Shorter.")], SOON)
    right = 1 if stage == "draft" else 2
    expect.that(len(llm.requests) == right, f"the model was asked {len(llm.requests)} times, not {right}")
    check_raised(got, "InternalServerError")


@pytest.mark.points(1)
@pytest.mark.handout("timeout")
def test_nobody_responds(submission, llm):
    """The wait for a person ends with the timeout."""
    llm.script(say("Come at eight."))
    got = submission.run(review, llm.url, llm.name, [("Invite the neighbours.", None)], {"timeout": 3})
    check_raised(got, "WorkflowTimeoutError")
    expect.that(len(llm.requests) == 1, f"the model was asked {len(llm.requests)} times")
