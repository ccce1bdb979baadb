"""Graded tests of week1/mean."""

import pytest
import torch

from grading import expect

DTYPES = ("float32", "float16")


def mean(x, weights=None, dim=-1):
    w = torch.ones_like(x) if weights is None else weights.expand_as(x)
    total = w.sum(dim)
    return torch.where(
        total == 0, torch.zeros_like(total), (x * w).sum(dim) / torch.where(total == 0, torch.ones_like(total), total)
    )


def centred(state, x):
    return (x - x.mean(-1, keepdim=True)) * state["gain"]


@pytest.mark.points(1)
@pytest.mark.handout("mean")
@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_mean(submission, draw, dtype):
    """The mean of numbers that all count alike."""
    x = draw.normal(3, 5, 8, dtype=dtype)
    expect(submission.call("weighted_mean", x, grad=True)).close_to(mean)


@pytest.mark.points(values=2, gradients=1)
@pytest.mark.handout("weights")
def test_weights_count(submission, draw, part):
    """Each number counts as much as its weight."""
    x, w = draw.normal(3, 5, 8), draw.uniform(8, low=0.1)
    with part("values"):
        expect(submission.call("weighted_mean", x, w)).close_to(mean)
    with part("gradients"):
        expect(submission.call("weighted_mean", x, w, grad=True)).close_to(mean)


@pytest.mark.points(1)
@pytest.mark.handout("weights")
def test_weights_of_zero(submission, draw):
    """Weights that are all zero give zero."""
    x = draw.normal(3, 8)
    got = submission.call("weighted_mean", torch.cat([x, x]), torch.zeros(8))
    expect(got).equal_to(torch.zeros(6))


@pytest.mark.points(1)
@pytest.mark.handout("weights")
def test_wrong_length_is_refused(submission, draw):
    """Weights of another length are refused."""
    got, ordinary = (submission.call("weighted_mean", draw.normal(3, 8), draw.uniform(length)) for length in (7, 8))
    expect(got).raises(ValueError, mentioning=[7, 8], unlike=ordinary)


@pytest.mark.points(2)
@pytest.mark.handout("mean")
@pytest.mark.limit(seconds=5)
def test_centred(submission, draw):
    """The class takes the mean away and multiplies by its gain."""
    state = {"gain": draw.uniform(8, low=0.5)}
    x = draw.normal(2, 3, 8)
    expect(submission.make("Centred", 8).load(state).call(x, grad=True)).close_to(centred, state, x)


def scenario(module, x):
    return {"sum": float(torch.stack([module.weighted_mean(row) for row in x]).sum())}


@pytest.mark.points(1)
@pytest.mark.handout("mean")
def test_a_scenario(submission, draw):
    """Row by row gives the same."""
    x = draw.normal(4, 8)
    got = submission.run(scenario, x)
    expect.that(abs(got.output["sum"] - float(x.mean(-1).sum())) < 1e-3, "the means of single rows add up differently")
