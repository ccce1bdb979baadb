"""The oracle of fits and confidence intervals agrees with SciPy."""

import numpy as np
import pytest
from scipy import stats

from tests.oracles import scaling


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 10, 23, 100])
def test_the_quantile_is_scipy_s(freedom):
    assert scaling.t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-6)


@pytest.mark.parametrize("n", [3, 4, 7, 25])
def test_the_fit_is_scipy_s(n):
    noise = np.random.default_rng(n)
    lengths, costs = noise.uniform(100, 9000, n), noise.lognormal(size=n)
    line = stats.linregress(np.log(lengths), np.log(costs))
    margin = stats.t.ppf(0.975, n - 2) * line.stderr
    expected = line.slope, line.slope - margin, line.slope + margin
    assert scaling.fit(lengths.tolist(), costs.tolist()) == pytest.approx(expected, rel=1e-6)


def test_an_exact_power_law_has_no_margin():
    assert scaling.fit([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx((2, 2, 2))


def test_the_interval_of_a_worked_example():
    """y = 0, 1, 1 at x = 0, 1, 2: slope 1/2, residual sum 1/6, standard error √(1/12)."""
    assert scaling.fit([1, 2, 4], [1, 2, 2]) == pytest.approx((0.5, -3.168, 4.168), abs=1e-3)
