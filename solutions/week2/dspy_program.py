"""A DSPy program: signatures instead of prompts, an agent with tools, and optimisers that choose the demonstrations.

A *program* is a `dspy.Module`: called with `question=…` it returns a `dspy.Prediction`. It holds no language model; it
uses the one of the `dspy.context` in which it is called.

Each call of the model is one HTTP request, and a failed request is never repeated: a status 500 raises from `predictor`
and `react_agent` after that one request; `evaluate`, `optimise` and `refine` say what they do about it. A late reply is
waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import dspy

Metric = Callable[..., float]
"""metric(example, prediction, trace=None) returns a bool or a number from 0 to 1."""

Reward = Callable[[dict[str, Any], dspy.Prediction], float]
"""reward(args, prediction) returns a number; args holds the keyword arguments of the call: {"question": …}."""


def connect(url: str, model: str, api_key: str = "none") -> dspy.LM:
    """A client for a language model that speaks OpenAI's chat-completions protocol, without cache or retries.

    Args:
        url: ends in /v1; requests go to {url}/chat/completions.
        model: the server's name for the model, sent unchanged in each request: "qwen3:8b", "openai/gpt-oss-20b".
        api_key: sent as the bearer token.
    """
    # The prefix selects the protocol and is stripped; a name with a prefix of its own keeps that one.
    return dspy.LM(f"openai/{model}", api_base=url, api_key=api_key, cache=False, num_retries=0)


def predictor(kind: Literal["predict", "chain_of_thought"] = "predict") -> dspy.Module:
    """A program `question -> answer: int`.

    The prediction's `answer` is an int. With "chain_of_thought" the model is asked for its reasoning before the
    answer, and the prediction also has `reasoning`, a str.

    The program raises if the model's reply holds no int, possibly after asking for it in another form.

    Raises:
        ValueError: unknown kind; the message names kind and the value.
    """
    signature = "question -> answer: int"
    match kind:
        case "predict":
            return dspy.Predict(signature)
        case "chain_of_thought":
            return dspy.ChainOfThought(signature)
    raise ValueError(f"kind must be 'predict' or 'chain_of_thought', not {kind!r}")


def react_agent(tools: Sequence[Callable[..., str]], max_iters: int = 5) -> dspy.Module:
    """An agent `question -> answer`, both str, that may use tools before it answers.

    The model is asked as in `dspy.ReAct`: each turn for next_thought, next_tool_name (a tool's name, or finish) and
    next_tool_args (a JSON object); it is told the result, and finally asked for the answer. It is told the tools' names
    and docstrings. After max_iters turns it is asked for the answer, finished or not: at most max_iters + 1 requests in
    all, even if a reply cannot be read.

    A tool that raises, arguments that do not fit the tool or are not a JSON object, and an unknown tool do not end the
    run: the model's next request says what was wrong, and still holds the earlier results. Each call by the model runs
    the tool once.

    Args:
        tools: functions with a name and a docstring that take text arguments and return text.
    """
    return _Agent(tools, max_iters)


class _Agent(dspy.ReAct):
    """dspy.ReAct with wider types for a turn.

    In dspy.ReAct an unknown tool or wrong arguments fail to parse, which ends the run. Here the turn parses and the
    tool call fails, which the model is told.
    """

    def __init__(self, tools: Sequence[Callable[..., str]], max_iters: int) -> None:
        super().__init__("question -> answer", list(tools), max_iters)
        turn = self.react.signature.with_updated_fields("next_tool_name", type_=str)
        self.react.signature = turn.with_updated_fields("next_tool_args", type_=Any)
        self.tools: dict[str, dspy.Tool] = _Tools(self.tools)

    def forward(self, **inputs: Any) -> dspy.Prediction:
        # By default the adapter asks again, for JSON: one request more than allowed.
        adapter = dspy.settings.adapter or dspy.ChatAdapter(use_json_adapter_fallback=False)
        with dspy.context(adapter=adapter):
            return super().forward(**inputs)


class _Tools(dict[str, dspy.Tool]):
    """Tools by name; an unknown name is an error that the model can act on."""

    def __missing__(self, name: str) -> dspy.Tool:
        raise LookupError(f"there is no tool {name!r}; the tools are {', '.join(self)}")


def examples(rows: Iterable[Mapping[str, Any]]) -> list[dspy.Example]:
    """The rows as examples, in order, with `question` declared the input and everything else a label.

    Args:
        rows: {"question": str, "answer": …}, possibly with more fields; not modified. May be an iterator.
    """
    return [dspy.Example(**row).with_inputs("question") for row in rows]


def metric(example: dspy.Example, prediction: dspy.Prediction | None, trace: Any = None) -> bool:
    """Whether the prediction's answer equals the example's, a bool; `trace` changes nothing.

    An answer that float() accepts is that number: 42, "42.0" and " 4.2e1 " are equal. Other answers are compared as
    text, in lower case, with white space stripped at the ends and collapsed between words. A number and a text differ.
    If either side's answer is missing or None, or there is no prediction at all: False. Never raises.
    """
    expected, predicted = getattr(example, "answer", None), getattr(prediction, "answer", None)
    return expected is not None and predicted is not None and _comparable(expected) == _comparable(predicted)


def _comparable(answer: Any) -> float | str:
    try:
        return float(answer)
    except (TypeError, ValueError, OverflowError):
        return " ".join(str(answer).lower().split())


def evaluate(program: dspy.Module, devset: Sequence[dspy.Example], metric: Metric) -> float:
    """The mean of the metric over the examples, from 0 to 1, within 1e-3.

    As in `dspy.Evaluate`, an example on which the program raises counts 0; once `dspy.settings.max_errors` examples
    (10) have raised, evaluate raises.

    Raises:
        ValueError: devset is empty; the message names it.
    """
    # One at a time, so that runs are reproducible; raise num_threads if the server is fast.
    return dspy.Evaluate(devset=list(devset), metric=metric, num_threads=1)(program).score / 100  # from per cent


def optimise(
    program: dspy.Module,
    trainset: Sequence[dspy.Example],
    metric: Metric,
    max_bootstrapped_demos: int = 4,
    max_labeled_demos: int = 4,
) -> dspy.Module:
    """A new program that shows the model demonstrations, chosen as by `dspy.BootstrapFewShot`.

    The training questions are asked one by one, in order, each with up to max_labeled_demos other training examples
    shown, never its own answer. If the metric accepts the prediction, question and prediction (with any reasoning)
    become a bootstrapped demonstration, up to max_bootstrapped_demos. A question on which the program raises does not.
    The remaining training examples, as labelled, then fill up to max_labeled_demos demonstrations in all.

    The given program is not modified: it shows what it showed before.
    """
    optimiser = dspy.BootstrapFewShot(
        metric, max_bootstrapped_demos=max_bootstrapped_demos, max_labeled_demos=max_labeled_demos
    )
    return optimiser.compile(program, trainset=list(trainset))


def refine(program: dspy.Module, reward: Reward, threshold: float, attempts: int) -> dspy.Module:
    """A program that calls the given one up to `attempts` times and returns the prediction with the best reward.

    The first prediction whose reward is at least the threshold is returned at once, without further requests; if there
    is none, the one with the highest reward. An attempt that raises, for example on a status 500, is used up, and the
    rest go on. In between, the model may be asked for advice, as in `dspy.Refine`; that does not count as an attempt.

    Raises:
        ValueError: attempts is less than 1; the message names it and the value.
    """
    if attempts < 1:
        raise ValueError(f"attempts must be at least 1, not {attempts}")
    return dspy.Refine(program, N=attempts, reward_fn=reward, threshold=threshold)


def save(program: dspy.Module, path: str | Path) -> None:
    """Write a program made by `predictor` or `optimise` to the folder `path`; `load` needs nothing else.

    Neither client nor key is written.

    Args:
        path: has no suffix and does not exist yet.
    """
    program.save(path, save_program=True)


def load(path: str | Path) -> dspy.Module:
    """The program saved in the folder `path`, which may have been moved; it sends the same messages.

    Reading it unpickles it, which runs code from the file: load nothing that you would not run.
    """
    return dspy.load(str(path), allow_pickle=True)
