"""The referee's problems: their derivatives, and that an error in a listing would show on them."""

import ast
import pathlib

import numpy as np
import pytest

from .dense import X0, Y0, close, exact, hessian, lower_solution, numerical
from .problem import NumpyCleaning, NumpyProblem


def test_the_referee_imports_numpy_only():
    for file in pathlib.Path(__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in getattr(node, "names", [])]
            if isinstance(node, ast.ImportFrom):
                names = [] if node.level else [node.module]
            elif not isinstance(node, ast.Import):
                names = []
            assert {name.split(".")[0] for name in names} <= {"numpy", "math", "ast", "pathlib", "pytest"}, file


@pytest.mark.parametrize("per_row", [False, True])
def test_derivatives_agree_with_finite_differences(rng, per_row):
    """On rows of which one comes four times."""
    problem = NumpyProblem.random(1)
    problem = NumpyCleaning(problem) if per_row else problem
    x, y, u = rng.normal(size=problem.n if per_row else 3), rng.normal(size=4), rng.normal(size=4)
    r = np.array([5, 3, 2, 3, 3, 3])
    close(problem.F_x(x, y, r), numerical(lambda x: problem.f(x, y, r), x), 1e-8)
    close(problem.F_y(x, y, r), numerical(lambda y: problem.f(x, y, r), y), 1e-8)
    close(problem.G_x(x, y, r), numerical(lambda x: problem.g(x, y, r), x), 1e-8)
    close(problem.G_y(x, y, r), numerical(lambda y: problem.g(x, y, r), y), 1e-8)
    close(problem.H(x, y, u, r), numerical(lambda y: problem.G_y(x, y, r) @ u, y), 1e-8)
    close(problem.J(x, y, u, r), numerical(lambda x: problem.G_y(x, y, r) @ u, x), 1e-8)


def test_noise_curvature_and_the_lower_solution_matter(problem):
    y = lower_solution(problem, X0)
    assert np.linalg.norm(problem.G_y(X0, y, np.array([0]))) > 0.1
    assert np.linalg.norm(hessian(problem, X0, Y0, [0, 1]) - hessian(problem, X0, y, [0, 1])) > 1e-3
    h = exact(problem, X0, y)[1]
    assert np.linalg.norm(h - problem.F_x(X0, y, np.arange(problem.m))) > 0.02
    close(h, numerical(lambda x: problem.f(x, lower_solution(problem, x), np.arange(problem.m)), X0), 1e-7)
