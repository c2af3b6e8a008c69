"""The look of curves."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from bilevel._output.figures import COLORS, line, look


def test_many_curves_look_different():
    assert len({look(i) for i in range(4 * len(COLORS))}) == 4 * len(COLORS)
    assert len({look(i).color for i in range(len(COLORS))}) == len(COLORS)
    assert all(re.fullmatch("#[0-9A-F]{6}", color) for color in COLORS)


@pytest.mark.parametrize("crowded", [True, False])
def test_a_curve_has_its_look_and_its_band_unless_it_is_crowded(crowded):
    axes = Figure().subplots()
    line(axes, 9, "ten", np.arange(4.0), np.ones(4), np.full(4, 0.5), crowded=crowded)
    (curve,) = axes.get_lines()
    assert (curve.get_color(), curve.get_marker(), curve.get_linestyle()) == (COLORS[2], "D", "--")
    assert len(axes.collections) == (not crowded)
    if not crowded:
        assert {0.5, 1.5} <= set(axes.collections[0].get_paths()[0].vertices[:, 1])
