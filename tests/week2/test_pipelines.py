"""Graded tests of week2/pipelines: from text to label and score, on the classifier in exercises/week2/material."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch

from grading import expect
from tests.oracles import pipelines as oracle

# What the exercise asks for: a hand-in that names it is looked at by a person (grading/course/review.py).
READY_MADE = (
    "pipeline",
    "TextClassificationPipeline",
)

FOLDER = str(oracle.FOLDER)


def some(draw, number, among=slice(None)):
    """Sentences that the classifier knows, in a random order."""
    texts = [text for _, text in oracle.sentences()[among]]
    return [texts[index] for index in draw.permutation(len(texts)).tolist()[:number]]


def model_with(config, state):
    """A sequence classifier with these weights, in their dtype."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**config))
    model.to(next(iter(state.values()))).load_state_dict(state)
    return model


def model_from(folder):
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder)


def tokenizer_from(folder, **settings):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, **settings)


def classify(module, folder, config, state, texts, tokenizer, training, options):
    """The labels, and the scores as a tensor, by a model with these weights."""
    model = model_with(config, state).train(training)
    answers = module.SentimentPipeline(model, tokenizer_from(folder, **tokenizer))(texts, **options)
    scores = [answer["score"] for answer in answers]
    return [answer["label"] for answer in answers], torch.tensor(scores, device=model.device)


def check(submission, texts, *, config=None, state=None, tokenizer=None, training=False, **options):
    """Labels and scores are those of the texts classified one by one."""
    config = oracle.config() | (config or {})
    state, tokenizer = state or oracle.state(), tokenizer or {}
    got = submission.run(classify, FOLDER, config, state, texts, tokenizer, training, options)
    one_by_one = [texts] if isinstance(texts, str) else list(texts)
    right, _ = oracle.classify(config, state, one_by_one, tokenizer)
    labels, _ = got.output
    expect.that(len(labels) == len(right), f"{len(labels)} answers to {len(right)} texts")
    wrong = [f"{text[:40]!r}: {a!r}, not {b!r}" for text, a, b in zip(one_by_one, labels, right, strict=True) if a != b]
    expect.that(not wrong, f"{len(wrong)} of {len(right)} labels are wrong. {'; '.join(wrong[:2])}")
    expect(got).close_to(oracle.classify, config, state, one_by_one, tokenizer, dtypes=[torch.float32])


# --- what goes in and comes out -----------------------------------------------------------------------------------


def answers(module, folder, texts):
    """What the pipeline returns, and the texts afterwards."""
    return module.SentimentPipeline(model_from(folder), tokenizer_from(folder))(texts), texts


@pytest.mark.points(2)
@pytest.mark.handout("form")
def test_an_answer_is_a_label_and_a_score(submission, draw):
    """Each answer is a dictionary with a label, a str, and a score, a Python float."""
    output, _ = submission.run(answers, FOLDER, some(draw, 3)).output
    expect.that(isinstance(output, list) and len(output) == 3, f"three texts get a list of three answers, not {output}")
    for answer in output:
        kinds = {key: type(value).__name__ for key, value in answer.items()} if isinstance(answer, dict) else answer
        expect.that(
            kinds == {"label": "str", "score": "float"}, f"an answer should be a label and a score, not {kinds}"
        )


@pytest.mark.points(2)
@pytest.mark.handout("steps")
@pytest.mark.parametrize("language", ["English", "Korean"])
def test_a_sentence_gets_its_label_and_score(submission, draw, language):
    """A list of one sentence, English or Korean, gets its label and score."""
    number = draw.choice(range(60)) * 4 + (2 if language == "Korean" else 0)
    for among in (slice(number, number + 1), slice(number + 1, number + 2)):  # a sentence and its opposite
        check(submission, some(draw, 1, among))


def pipelines_made(module, folder, texts):
    """The pipelines of transformers that are made to classify texts."""
    from transformers import Pipeline

    made, make = [], Pipeline.__init__

    def note(self, *args, **kwargs):
        made.append(type(self).__name__)
        make(self, *args, **kwargs)

    with patch.object(Pipeline, "__init__", note):
        module.SentimentPipeline(model_from(folder), tokenizer_from(folder))(texts)
    return made


@pytest.mark.points(5)
@pytest.mark.handout("steps")
def test_the_steps_are_your_own(submission, draw):
    """Texts are classified without a pipeline of transformers."""
    texts = some(draw, 5)
    check(submission, texts)
    made = submission.run(pipelines_made, FOLDER, texts).output
    expect.that(not made, f"the answers come from transformers' {', '.join(made)}: the steps are yours to write")


@pytest.mark.points(1)
@pytest.mark.handout("form")
@pytest.mark.parametrize("text", ["정말 재미있는 영화였어요.", ""], ids=["a-sentence", "empty"])
def test_a_single_text_gets_a_list_of_one(submission, text):
    """A single str, even an empty one, gets a list of one answer."""
    check(submission, text)


@pytest.mark.points(1)
@pytest.mark.handout("form")
def test_a_tuple_will_do(submission, draw):
    """A tuple of texts is accepted like a list."""
    check(submission, tuple(some(draw, 3)))


@pytest.mark.points(1)
@pytest.mark.handout("form")
def test_the_list_of_texts_is_left_alone(submission, draw):
    """The list that is passed holds the same texts in the same order afterwards."""
    texts = some(draw, 12)
    _, after = submission.run(answers, FOLDER, texts).output
    expect.that(after == texts, f"the list of texts was changed: it begins with {after[:2]}, began with {texts[:2]}")


# --- batches ------------------------------------------------------------------------------------------------------


@pytest.mark.points(2)
@pytest.mark.handout("batches")
def test_answers_come_in_the_order_of_the_texts(submission, draw):
    """Answers are in the order of the texts, with many lengths and some texts repeated."""
    texts = some(draw, 19)
    check(submission, [*texts, texts[3], texts[0], texts[3]])


@pytest.mark.points(2)
@pytest.mark.handout("padding")
def test_a_text_gets_in_company_what_it_gets_alone(submission, draw):
    """A short text beside long ones gets the answer that it gets alone: padding has no effect."""
    long = " ".join(some(draw, 5))
    check(submission, ["Good", long, "Bad.", "좋아요", *some(draw, 2)])


@pytest.mark.points(1)
@pytest.mark.handout("batches")
@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_the_batch_size_changes_no_answer(submission, draw, batch_size):
    """The answers are the same one by one, three at a time or all at once."""
    check(submission, some(draw, 7), batch_size=batch_size)


def batches(module, folder, config, state, texts, training, options):
    """What the model sees in each call."""
    model, found = model_with(config, state), []

    def note(layer, inputs, output):
        found.append(
            {
                "texts": len(inputs[0]),
                "padding": int((inputs[0] == 0).sum(1).min()),  # of the longest text
                "training": any(each.training for each in model.modules()),
                "graph": output.requires_grad,
            }
        )

    model.get_input_embeddings().register_forward_hook(note)
    pipeline = module.SentimentPipeline(model, tokenizer_from(folder))
    model.train(training)
    pipeline(texts, **options)
    return found


def run_batches(submission, texts, training=False, **options):
    return submission.run(batches, FOLDER, oracle.config(), oracle.state(), texts, training, options).output


@pytest.mark.points(1)
@pytest.mark.handout("batches")
@pytest.mark.parametrize(
    ("number", "options", "calls"),
    [
        (7, {"batch_size": 1}, 7),
        (7, {"batch_size": 3}, 3),
        (7, {"batch_size": 7}, 1),
        (7, {"batch_size": 8}, 1),
        (17, {}, 3),
    ],
    ids=["by-ones", "by-threes", "just-full", "not-full", "default"],
)
def test_the_model_is_called_once_a_batch(submission, draw, number, options, calls):
    """The model reads batch_size texts at a time, in no more calls than that takes."""
    found = [batch["texts"] for batch in run_batches(submission, some(draw, number), **options)]
    most = options.get("batch_size", 8)
    expect.that(
        len(found) == calls and sum(found) == number and max(found) <= most,
        f"{number} texts with batch_size={most} should take {calls} calls of the model; it read batches of {found}",
    )


@pytest.mark.points(2)
@pytest.mark.handout("padding")
def test_a_batch_is_no_longer_than_its_longest_text(submission, draw):
    """Short texts are not padded to the length of texts in other batches, or to the model's maximum."""
    short, long = ["Good", "좋아요", "Bad", "나빠요"], [" ".join(some(draw, 6)) for _ in range(4)]
    found = [batch["padding"] for batch in run_batches(submission, short + long, batch_size=4)]
    expect.that(not any(found), f"the longest text of each batch has {found} tokens of padding, should have none")


@pytest.mark.points(1)
@pytest.mark.handout("form")
def test_no_texts_no_work(submission):
    """[] gets [], without a call of the model."""
    expect.that(not run_batches(submission, []), "the model was called, but there was nothing to classify")
    output, _ = submission.run(answers, FOLDER, []).output
    expect.that(output == [], f"the answer to [] should be [], not {output}")


@pytest.mark.points(1)
@pytest.mark.handout("batches")
@pytest.mark.parametrize("batch_size", [0, -3])
def test_a_batch_of_none_is_refused(submission, draw, batch_size):
    """A batch_size below 1 is a ValueError naming it and the value."""
    texts = some(draw, 3)
    got, ordinary = (
        submission.run(classify, FOLDER, oracle.config(), oracle.state(), texts, {}, False, {"batch_size": size})
        for size in (batch_size, 2)
    )
    expect(got).raises(ValueError, mentioning=["batch_size", batch_size], unlike=ordinary)


# --- any text -----------------------------------------------------------------------------------------------------


@pytest.mark.points(2)
@pytest.mark.handout("truncation")
def test_a_very_long_text_is_cut_off(submission, draw):
    """Only the beginning of an overlong text is classified; other texts in the batch are unaffected."""
    check(submission, [" ".join(some(draw, 60)), *some(draw, 2), "지루해요 " * 200])


@pytest.mark.points(2)
@pytest.mark.handout("truncation")
@pytest.mark.parametrize("length", [5, 16])
def test_the_tokenizer_says_where(submission, draw, length):
    """The limit is tokenizer.model_max_length, even if the model can read more."""
    texts = [" ".join(some(draw, 3)) for _ in range(4)]
    check(submission, [*texts, "Good"], tokenizer={"model_max_length": length})


@pytest.mark.points(1)
@pytest.mark.handout("truncation")
def test_a_text_that_just_fits(submission):
    """Texts of one word less than the limit, of the limit, and of one word more: the last words decide."""
    texts = [f"{'film ' * number}awful" for number in (60, 61, 62, 63)]
    check(submission, [*texts, *(f"{'good ' * number}awful bad terrible" for number in (58, 59, 60))])


@pytest.mark.points(1)
@pytest.mark.handout("truncation")
def test_the_tokenizer_says_which_end(submission, draw):
    """With truncation_side="left" the beginning of the text is cut off."""
    texts = [" ".join(some(draw, 4)) for _ in range(4)]
    check(submission, texts, tokenizer={"model_max_length": 12, "truncation_side": "left"})


@pytest.mark.points(1)
@pytest.mark.handout("texts")
@pytest.mark.parametrize(
    "odd",
    [
        ["", ""],
        [" ", "\n\t", "  Good  ", "Good"],
        ["👍👍", "👎", "정말 좋아요 😀!!", "❤️"],
        ["[PAD]", "Good [PAD] [PAD] bad", "[CLS] [SEP]", "terrible [SEP] wonderful [UNK]"],
        ["GREAT", "great", "AWFUL!", "Awful"],
        ["ㅋㅋㅋㅋ ㅠㅠ", "매우 좋아요", "とても良い", "très bien", "Привет"],
        ["a" * 5000, "좋" * 5000, "!" * 5000],
    ],
    ids=["empty", "white-space", "emoji", "special-tokens", "case", "scripts", "no-spaces"],
)
def test_any_text_is_classified(submission, draw, odd):
    """Odd texts among ordinary ones are classified as the tokenizer reads them."""
    first, last = some(draw, 2)
    check(submission, [first, *odd, last])


# --- labels and scores --------------------------------------------------------------------------------------------


def head(draw, classes, scale=1.0):
    """The classifier's weights with a random last layer for this many classes."""
    layer = {
        "classifier.weight": draw.normal(classes, 32, scale=scale / 2),
        "classifier.bias": draw.normal(classes, scale=scale),
    }
    return oracle.state() | layer


@pytest.mark.points(1)
@pytest.mark.handout("labels")
def test_labels_are_the_model_s_own(submission, draw):
    """Labels are the names of the classes in the model's configuration."""
    check(submission, some(draw, 6), config={"id2label": {0: "부정", 1: "긍정"}})


@pytest.mark.points(2)
@pytest.mark.handout("labels")
def test_there_may_be_more_than_two_classes(submission, draw):
    """With three classes the scores are a softmax, and the most probable class is the answer."""
    check(submission, some(draw, 11), config={"id2label": {0: "bad", 1: "mixed", 2: "good"}}, state=head(draw, 3))


@pytest.mark.points(1)
@pytest.mark.handout("scores")
def test_one_class_has_a_sigmoid(submission, draw):
    """The score of a model with one logit is the logit's sigmoid."""
    check(submission, some(draw, 5), config={"id2label": {0: "spam"}}, state=head(draw, 1))


@pytest.mark.points(1)
@pytest.mark.handout("scores")
def test_classes_that_may_hold_together_have_a_sigmoid_each(submission, draw):
    """problem_type="multi_label_classification": a sigmoid for each class, the largest is the answer."""
    config = {"id2label": {0: "fun", 1: "sad", 2: "long"}, "problem_type": "multi_label_classification"}
    check(submission, some(draw, 5), config=config, state=head(draw, 3))


@pytest.mark.points(1)
@pytest.mark.handout("scores")
@pytest.mark.parametrize("classes", [1, 3])
def test_a_regression_gives_its_number(submission, draw, classes):
    """problem_type="regression": the score is the logit itself."""
    config = {"id2label": {index: f"LABEL_{index}" for index in range(classes)}, "problem_type": "regression"}
    check(submission, some(draw, 5), config=config, state=head(draw, classes))


@pytest.mark.points(1)
@pytest.mark.handout("scores")
@pytest.mark.parametrize("classes", [1, 3])
def test_large_logits_do_no_harm(submission, draw, classes):
    """Logits in the thousands are scored like any others."""
    config = {"id2label": {index: f"LABEL_{index}" for index in range(classes)}}
    check(submission, some(draw, 8), config=config, state=head(draw, classes, scale=1000.0))


@pytest.mark.points(1)
@pytest.mark.handout("scores")
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_the_model_may_have_another_dtype(submission, draw, dtype):
    """Scores are as accurate as the model's dtype allows."""
    state = {name: tensor.to(getattr(torch, dtype)) for name, tensor in oracle.state().items()}
    texts = some(draw, 40)
    _, scores = oracle.classify(oracle.config(), oracle.state(), texts, {})
    check(
        submission, [text for text, score in zip(texts, scores.tolist(), strict=True) if score > 0.9][:8], state=state
    )


@pytest.mark.points(1)
@pytest.mark.handout("scores")
def test_scores_are_computed_in_float32(submission, draw):
    """A bfloat16 model's logits are converted before the softmax, so that scores have no steps of 1/256."""
    state = {name: tensor.bfloat16() for name, tensor in head(draw, 3, scale=0.3).items()}
    config = oracle.config() | {"id2label": {0: "a", 1: "b", 2: "c"}}
    _, scores = submission.run(classify, FOLDER, config, state, some(draw, 8), {}, False, {}).output
    expect.that(
        bool((scores.bfloat16().float() != scores).any()), f"every score is a bfloat16 number: {scores.tolist()}"
    )


def decoder():
    """The configuration of a small decoder that fits the course's tokenizer."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    names = {"id2label": {0: "negative", 1: "positive"}, "vocab_size": oracle.config()["vocab_size"]}
    return {"model_type": "llama", **sizes, **names, "max_position_embeddings": 64, "pad_token_id": 0}


@pytest.mark.points(2)
@pytest.mark.handout("padding")
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_decoder_will_do(submission, draw, side):
    """A Llama classifies, with a tokenizer that pads on the left or on the right."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    shapes = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**decoder())).state_dict()
    state = {name: draw.normal(*tensor.shape, scale=0.4) for name, tensor in shapes.items()}
    tokenizer = {"padding_side": side, "model_input_names": ["input_ids", "attention_mask"]}
    check(submission, some(draw, 9), config=decoder(), state=state, tokenizer=tokenizer)


# --- the model, during a call and afterwards ----------------------------------------------------------------------


@pytest.mark.points(2)
@pytest.mark.handout("modes")
def test_dropout_has_no_say(submission, draw):
    """A model in training mode answers as in eval mode."""
    config = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5, "classifier_dropout": 0.5}
    check(submission, some(draw, 5), config=config, training=True)


@pytest.mark.points(1)
@pytest.mark.handout("modes")
def test_training_may_begin_after_the_pipeline_was_made(submission, draw):
    """A model put in training mode after the pipeline was made still computes in eval mode."""
    found = run_batches(submission, some(draw, 3), training=True)
    expect.that(found and not any(batch["training"] for batch in found), "the model computed in training mode")


@pytest.mark.points(2)
@pytest.mark.handout("modes")
def test_no_graph_is_built(submission, draw):
    """Nothing is kept for a backward pass."""
    found = run_batches(submission, some(draw, 3))
    expect.that(found and not any(batch["graph"] for batch in found), "the model's activations require a gradient")


def afterwards(module, folder, texts, training, frozen, dtype, failing):
    """What changed in the model: by making the pipeline, and by calling it too."""
    model = model_from(folder).to(getattr(torch, dtype)).train(training)
    for name in frozen:
        model.get_submodule(name).eval().requires_grad_(False)
    if failing:
        model.classifier.register_forward_pre_hook(fail)
    before = facts(model)
    pipeline = module.SentimentPipeline(model, tokenizer_from(folder))
    made = changes(before, facts(model))
    try:
        pipeline(texts)
    except RuntimeError:
        if not failing:
            raise
    return {"made": made, "called": changes(before, facts(model))}


def fail(*_):
    raise RuntimeError("out of memory")


def facts(model):
    """What must not change, by a name for each."""
    found = {f"mode of {name or 'the model'}": each.training for name, each in model.named_modules()}
    found |= {f"requires_grad of {name}": each.requires_grad for name, each in model.named_parameters()}
    found |= {f"dtype of {name}": str(each.dtype) for name, each in model.named_parameters()}
    return found | {f"numbers of {name}": each.clone() for name, each in model.state_dict().items()}


def changes(before, after):
    return [
        name
        for name, value in after.items()
        if not (torch.equal(value, before[name]) if isinstance(value, torch.Tensor) else value == before[name])
    ]


@pytest.mark.points(1)
@pytest.mark.handout("modes")
@pytest.mark.parametrize(
    ("training", "frozen", "dtype", "failing"),
    [
        (False, [], "float32", False),
        (True, [], "float32", False),
        (True, ["bert.embeddings", "bert.encoder.layer.0"], "float32", False),
        (True, [], "float32", True),
        (False, [], "bfloat16", False),
    ],
    ids=["eval", "training", "partly-frozen", "after-an-exception", "bfloat16"],
)
def test_the_model_is_left_as_it_was(submission, draw, training, frozen, dtype, failing):
    """Modes, dtypes, numbers and requires_grad are afterwards what they were, even after an exception."""
    found = submission.run(afterwards, FOLDER, some(draw, 3), training, frozen, dtype, failing).output
    for when, names in found.items():
        expect.that(not names, f"when the pipeline was {when}, {len(names)} things changed: {names[:3]}")


def before_and_after_training(module, folder, texts):
    """Labels before and after the two classes are swapped in the model."""
    model = model_from(folder)
    pipeline = module.SentimentPipeline(model, tokenizer_from(folder))
    before = [answer["label"] for answer in pipeline(texts)]
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.copy_(parameter.flip(0))
    return before, [answer["label"] for answer in pipeline(texts)]


@pytest.mark.points(1)
@pytest.mark.handout("modes")
def test_what_the_model_learns_later_counts(submission, draw):
    """The pipeline uses the model itself, not a copy: when its weights change, the answers do."""
    before, after = submission.run(before_and_after_training, FOLDER, some(draw, 5)).output
    opposite = {"negative": "positive", "positive": "negative"}
    expect.that(
        after == [opposite.get(label) for label in before],
        f"the classes were swapped in the model; the labels were {before}, and then {after}",
    )
