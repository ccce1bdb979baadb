"""What a failure says: the reference's numbers as expected, scalars as numbers, refusals as sentences."""

from __future__ import annotations

import pytest
import torch

from grading.ask.got import Got
from grading.ask.submission import Submission
from grading.course.layout import Course
from grading.course.trees import find_tree
from grading.explain.explanation import Explanation
from grading.explain.outcome import Unmet
from grading.explain.show import show_value
from grading.judge.expect import expect
from grading.run.executors import InProcess
from tests.grading.conftest import write_hand_in


@pytest.fixture
def answer(tmp_path):
    """`answer("x + 1", x)`: what a function returns that computes this."""

    def ask(expression: str, *args: torch.Tensor, **options: bool) -> Got:
        source = f"import torch\n\n\ndef f(x, y=None):\n    return {expression}\n"
        folder = write_hand_in(tmp_path / "hand-in", f=source)
        tree = find_tree(Course(tmp_path), str(folder), tmp_path)
        return Submission(tree, "week1/f", InProcess()).call("f", *args, **options)

    return ask


def failure(judge, *args, **kwargs) -> Explanation:
    with pytest.raises(Unmet) as caught:
        judge(*args, **kwargs)
    return caught.value.explanation


X = torch.tensor([1.0, 2.0, 4.0])


def test_expected_is_the_reference_number_and_got_the_answer(answer):
    said = failure(expect(answer("x.sum()", X)).close_to, lambda x: x.sum() / 2)
    assert said.expected == "output: 3.5"
    assert said.got.startswith("7, ")


def test_expected_does_not_describe_the_layout_of_the_answer(answer):
    said = failure(expect(answer("x.T + 1", torch.eye(2))).close_to, lambda x: x + 2)
    assert said.expected == "output: float32 (2, 2) with 3 at (0, 0)"
    said = failure(expect(answer("x.expand(2, 3)", X)).close_to, lambda x: x + 2, alias=True)
    assert "contiguous" not in said.text()


def test_a_tensor_of_one_number_keeps_its_shape(answer):
    said = failure(expect(answer("x[:1] + 1", X)).close_to, lambda x: x[:1])
    assert said.expected == "output: float32 (1,) with 1 at (0,)"
    assert said.got.startswith("2 at (0,)")


@pytest.mark.parametrize(
    ("right", "wrong", "expected", "got"),
    [
        ("x.sum().long() + 123456789", "x.sum().long() + 123456790", "output: 123456796", "123456797"),
        ("(x > 0).all()", "(x < 0).all()", "output: True", "False"),
    ],
)
def test_integers_and_truth_are_shown_in_full(answer, right, wrong, expected, got):
    said = failure(expect(answer(wrong, X)).close_to, eval(f"lambda x: {right}"))
    assert (said.expected, said.got) == (expected, got)


def test_a_structure_is_described_without_the_numbers_of_the_reference(answer):
    said = failure(expect(answer("x", X)).close_to, lambda x: (x.sum(), [x, x]))
    assert said.expected == "2 values: (a tensor (), (a tensor (3,), a tensor (3,)))"
    assert said.got == "float32 (3,)"


def test_a_gradient_of_the_wrong_kind_is_not_compared_with_the_input(answer):
    said = failure(expect(answer("x.detach() * 2", torch.tensor(5.0), grad=True)).close_to, lambda x: x * 2)
    assert said.expected == "gradient of x: float32 ()"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (torch.tensor(5.0), "5 (float32)"),
        (torch.tensor(12345678), "12345678 (int64)"),
        (torch.tensor(True), "True (bool)"),
        (torch.tensor([2.5]), "float32 (1,) = 2.5"),
        (torch.empty(0, 3), "float32 (0, 3)"),
        (torch.empty((), device="meta"), "float32 ()"),
        (torch.ones(2, 3).T, "float32 (3, 2)"),
        ((torch.tensor(1), None), "(1 (int64), None)"),
    ],
)
def test_values_are_shown_as_people_write_them(value, shown):
    assert show_value(value) == shown


def test_the_arguments_of_a_call_say_when_they_are_not_contiguous(answer):
    got = answer("x.sum()", torch.ones(2, 3).T)
    assert "x  float32 (3, 2), not contiguous" in got.explain("").called


def test_unequal_tensors_are_compared_where_they_differ(answer):
    said = failure(expect(answer("x.long()", X)).equal_to, torch.tensor([1, 2, 3]))
    assert said.location == "1 of 3 numbers, at 2\n4 instead of 3 at (2,)"


def test_a_sentence_is_always_said():
    said = failure(expect.that, False, "the tokens are read twice", got="calls with 5, 5 tokens")
    assert said.text().splitlines() == [
        "wrong      the tokens are read twice",
        "got        calls with 5, 5 tokens",
    ]
    assert failure(expect.that, False, "it is wrong").text() == "wrong      it is wrong"
    expect.that(True, "never said")


def test_a_refusal_names_what_its_message_lacks(answer):
    got = answer("torch.zeros(3)[x.long()].view(7)", torch.tensor([1.0]))
    said = failure(expect(got).raises, RuntimeError, mentioning=["7", "no such word"])
    assert said.wrong == "the message does not mention 'no such word'"


@pytest.mark.parametrize(
    ("raised", "wrong"),
    [
        ("", "no ValueError was raised"),
        ("KeyError: 0", "KeyError was raised instead of ValueError"),
        ("ValueError: limit must be at least 1", "the message does not mention '0'"),
        ("ValueError", "the message does not mention 'limit', '0'"),
    ],
)
def test_a_refusal_that_a_scenario_noted_reads_as_a_sentence(raised, wrong):
    said = failure(expect.refused, raised, ValueError, mentioning=["limit", "0"])
    assert said.wrong == wrong
    assert said.expected == "ValueError with a message that mentions 'limit', '0'"
    assert said.got == (raised or "no exception")
    expect.refused("ValueError: limit is 0: too small", ValueError, mentioning=["limit", "0"])
