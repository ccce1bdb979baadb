"""A program of DSPy: signatures in place of prompts, an agent with tools, and optimisers that choose what is shown.

A *program* is a `dspy.Module`: called with `question=…` it returns a `dspy.Prediction`. It holds no language model; the
model is the one of the `dspy.context` in which the program is called.

A call of the model is one HTTP request. Nothing here sends a request again because it failed: a status 500 raises from
`predictor` and `react_agent` after that one request, and what `evaluate`, `optimise` and `refine` do about it is
said there. A reply that comes late is waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import dspy

Metric = Callable[..., float]
"""metric(example, prediction, trace=None), a bool or a number from 0 to 1."""

Reward = Callable[[dict[str, Any], dspy.Prediction], float]
"""reward(args, prediction), with args the keyword arguments of the call: {"question": …}."""


def connect(url: str, model: str, api_key: str = "none") -> dspy.LM:
    """The client of a language model behind OpenAI's chat-completions protocol, with no cache and no retries.

    Args:
        url: up to and with /v1; requests go to {url}/chat/completions.
        model: the server's name for it, which each request says as it is: "qwen3:8b", "openai/gpt-oss-20b".
        api_key: sent as the bearer token.
    """
    raise NotImplementedError


def predictor(kind: Literal["predict", "chain_of_thought"] = "predict") -> dspy.Module:
    """A program `question -> answer: int`.

    The prediction's `answer` is an int. With "chain_of_thought" the model is asked for its reasoning before the
    answer, and the prediction also has `reasoning`, a str.

    Raises:
        ValueError: another kind; the message names it and the value.
        The program raises where the model's reply holds no int, perhaps after it was asked in another form.
    """
    raise NotImplementedError


def react_agent(tools: Sequence[Callable[..., str]], max_iters: int = 5) -> dspy.Module:
    """An agent `question -> answer`, both str, that may use tools before it answers.

    The model is asked as `dspy.ReAct` asks: turn by turn for next_thought, next_tool_name (a tool's name, or finish)
    and next_tool_args (a JSON object), told what came of it, and in the end asked for the answer. It learns the tools'
    names and docstrings. After max_iters turns the answer is asked for, finished or not: at most max_iters + 1
    requests in all.

    A tool that raises, arguments that do not fit the tool or are no JSON object, and a tool that does not exist do not
    end the run: the model's next request says what was wrong, and what tools found before is still there. Each
    tool is called once for each time that the model asks for it.

    Args:
        tools: functions with a name and a docstring, of text arguments, that return a text.
    """
    raise NotImplementedError


def examples(rows: Iterable[Mapping[str, Any]]) -> list[dspy.Example]:
    """The rows as examples, in order, their `question` declared the input and everything else a label.

    Args:
        rows: {"question": str, "answer": …} and perhaps more; they are left as they are.
    """
    raise NotImplementedError


def metric(example: dspy.Example, prediction: dspy.Prediction | None, trace: Any = None) -> bool:
    """Whether the prediction's answer is the example's, a bool; `trace` changes nothing.

    An answer that float() reads is that number: 42, "42.0" and " 4.2e1 " are the same. Other answers are compared as
    text, in lower case, without white space at the ends and with any white space between words the same. A number and
    a text differ. Where either side has no answer, or None, or there is no prediction at all: False. Never raises.
    """
    raise NotImplementedError


def evaluate(program: dspy.Module, devset: Sequence[dspy.Example], metric: Metric) -> float:
    """The mean of the metric over the examples, from 0 to 1, within 1e-3.

    As in `dspy.Evaluate`, an example at which the program raises counts 0, unless `dspy.settings.max_errors` of them
    (10) have raised: then evaluate raises.

    Raises:
        ValueError: devset is empty; the message names it.
    """
    raise NotImplementedError


def optimise(
    program: dspy.Module,
    trainset: Sequence[dspy.Example],
    metric: Metric,
    max_bootstrapped_demos: int = 4,
    max_labeled_demos: int = 4,
) -> dspy.Module:
    """A new program that shows the model demonstrations, as `dspy.BootstrapFewShot` chooses them.

    The training questions are asked one by one, in order, each with up to max_labeled_demos other training examples
    shown and never with its own answer in sight. Where the metric accepts the prediction, question and prediction
    (reasoning and all) become a bootstrapped demonstration, until there are max_bootstrapped_demos. A question at which
    the program raises becomes none. Training examples that are not among them then fill up, as they are labelled, to
    max_labeled_demos in all.

    The given program is left as it is: it shows what it showed before.
    """
    raise NotImplementedError


def refine(program: dspy.Module, reward: Reward, threshold: float, attempts: int) -> dspy.Module:
    """A program that calls the given one up to so many times, and returns what was rewarded best.

    The first prediction whose reward is at least the threshold is returned at once, with no request after it; if there
    is none, the one with the highest reward. An attempt that raises, on a status 500 say, is used up, and
    the others go on. In between, the model may be asked for advice, as `dspy.Refine` does; that is no attempt.

    Raises:
        ValueError: attempts is less than 1; the message names it and the value.
    """
    raise NotImplementedError


def save(program: dspy.Module, path: str | Path) -> None:
    """Write a program of `predictor` or `optimise` to the folder `path`, so that `load` needs nothing else.

    No client and no key is written with it.

    Args:
        path: has no suffix and does not exist yet.
    """
    raise NotImplementedError


def load(path: str | Path) -> dspy.Module:
    """The program that was saved to `path`, wherever that folder lies now; it sends the same messages.

    It is read with pickle, which runs what the file says: load nothing that you would not run.
    """
    raise NotImplementedError
