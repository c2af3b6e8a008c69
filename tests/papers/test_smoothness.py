"""The smoothness of f in x and in y along a run, on functions where it is known."""

import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel.papers._smoothness import UpperSmoothness


def rows(upper, points, wrap=lambda problem: problem):
    """What is recorded at these (x, y)."""
    problem = bl.Problem(upper=bl.Level(upper), lower=bl.Level(lambda x, y, _: 0.5 * y**2))
    recorder = UpperSmoothness(wrap(problem))

    class Solution:
        def __init__(self, x, y):
            self.x, self.y = jnp.asarray(x), jnp.asarray(y)

    return [recorder(Solution(*point)) for point in points]


def test_each_variable_has_its_own_smoothness_along_the_common_step():
    """F_x = 2x and F_y = 6y; a step of (3, 4) has length 5."""
    first, second = rows(lambda x, y, _: x**2 + 3 * y**2, [(1.0, 1.0), (4.0, 5.0)])
    assert all(np.isnan(value) for value in first.values())
    expected = {
        "smoothness in x": 2 * 3 / 5, "smoothness in y": 6 * 4 / 5, "x-gradient norm": 2.0, "y-gradient norm": 6.0,
        "upper loss": 4.0,
    }  # fmt: skip
    assert second == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("step", "place"), [(0.6, 1.0), (-0.6, 1 / 3)])
def test_the_largest_ratio_along_the_step_counts(step, place):
    """F_x = x²/2, and its ratio at γ is x + γΔ/2."""
    (_, found) = rows(lambda x, y, _: x**3 / 6 + 0 * y, [(2.0, 0.0), (2.0 + step, 0.0)])
    assert found["smoothness in x"] == pytest.approx(2 + place * step / 2, rel=1e-5)
    assert found["x-gradient norm"] == pytest.approx(2.0)
    assert found["smoothness in y"] == 0.0


def test_a_step_of_no_length_has_no_smoothness():
    (_, found) = rows(lambda x, y, _: x**2 + y**2, [(1.0, 1.0), (1.0, 1.0)])
    assert np.isnan(found["smoothness in x"]) and found["x-gradient norm"] == 2.0


def test_tasks_that_are_drawn_afresh_give_way_to_those_of_the_pool():
    class Drawn:
        def __init__(self, pool):
            self.pool = pool

        def __call__(self, key):
            raise AssertionError("drawn")

    (_, found) = rows(lambda x, y, _: x**2 + y**2, [(1.0, 1.0), (2.0, 1.0)], lambda p: bl.Episodes(Drawn(p)))
    assert found["smoothness in x"] == pytest.approx(2.0)
