"""The problem on which the referee is tested."""

import numpy as np
import pytest

from .draws import Everything
from .problem import NumpyProblem


@pytest.fixture
def problem():
    return NumpyProblem.random(0)


@pytest.fixture
def everything(problem):
    return Everything(problem.n, problem.m)


@pytest.fixture
def rng():
    return np.random.default_rng(7)
