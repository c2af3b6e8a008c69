"""Suggested settings: the theorems' values, a trial that finds an upper step, and a budget that is kept."""

import inspect
import json
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

import bilevel as bl
from bilevel import tasks
from bilevel._suggest._trial import FACTOR, KEPT, _bracket, _settled_loss, _survey
from bilevel.cli import app
from bilevel.solvers import theory
from bilevel.solvers.theory import Facts

KEY = jax.random.key(0)
BUDGET = 40_000


@pytest.fixture(scope="module")
def task():
    return tasks.quadratic(dim_x=3, dim_y=4, mu=1.0, L=10.0, noise=0.1, rows=100, batch_size=5)


@pytest.fixture(scope="module")
def suggested(task):
    return bl.suggest(task.problem, task.x, task.y, solver=bl.SOBA, key=KEY, budget=BUDGET)


@pytest.fixture(scope="module")
def constants(task):
    return bl.measure_constants(task.problem, task.x, task.y, key=KEY)


def facts(constants, name="soba", **changes):
    default = {"upper_smoothness": 1.0, "dim_y": 4, "batch": 5, "rows": 100, "strata": 1, "passes": 40_000.0}
    default |= {"mu": constants.mu, "L": constants.L, "scaling": bl.SOLVERS[name].scaling} | changes
    return Facts(kappa=default["L"] / default["mu"], **default)


def theory_of(constants, name, **changes):
    return bl.SOLVERS[name].suggested(facts(constants, name, **changes))


@pytest.mark.parametrize("name", bl.SOLVERS)
def test_each_solver_has_a_theorem_whose_settings_it_takes(name, constants):
    choices = theory_of(constants, name)
    solver = bl.SOLVERS[name](upper_step=0.1, **{setting: choice.value for setting, choice in choices.items()})
    assert isinstance(solver, bl.AbstractSolver)
    required = {
        parameter.name
        for parameter in inspect.signature(bl.SOLVERS[name]).parameters.values()
        if parameter.default is inspect.Parameter.empty and parameter.name != "upper_step"
    }
    assert required <= set(choices)
    assert all(choice.reason for choice in choices.values())
    assert 0 < bl.SOLVERS[name].scaling < 2  # 2/L is where descent stops being stable


def test_the_theorems_values(constants):
    values = {
        name: {setting: choice.value for setting, choice in theory_of(constants, name).items()} for name in bl.SOLVERS
    }
    assert values["soba"]["lower_step"] == pytest.approx(0.1, rel=1e-3)
    assert values["stocbio"]["lower_step"] == pytest.approx(bl.StocBiO.scaling * 2 / 11, rel=1e-3)
    assert values["itd"]["lower_step"] == pytest.approx(bl.ITDBiO.scaling / 10, rel=1e-3)
    assert values["stocbio"]["neumann_order"] == math.ceil(10 * (1 + math.log(10)))
    assert values["aid"]["adjoint"].steps == 4  # √10
    assert values["borep"]["adjoint_step"] == pytest.approx(0.1, rel=1e-3)  # (1 − 0.9)/μ, and the lower step
    assert values["f2sa"]["multiplier"] == pytest.approx(2.0, rel=1e-3)
    assert values["f2sa"]["penalized_step"] == pytest.approx(1 / 21, rel=1e-3)
    assert values["sustain"]["lower_storm_weight"] == pytest.approx(10_000 ** (-1 / 3))
    step = values["bsa"]["lower_step"]
    assert float(step(0)) == pytest.approx(bl.BSA.scaling / 10, rel=1e-3)
    assert 1 / float(step(9)) - 1 / float(step(0)) == pytest.approx(9.0, rel=1e-3)  # μ (t + …)
    assert isinstance(values["ba"]["adjoint"], bl.Direct)


def test_caps_and_what_they_say(constants):
    choices = theory_of(constants, "stocbio", mu=1e-3)
    assert choices["inner_steps"].value == theory.MOST["inner steps"]
    assert "capped at 10" in choices["inner_steps"].reason
    assert choices["neumann_order"].value == theory.MOST["Neumann order"]
    poor = theory_of(constants, "mrbo", mu=1e-3, passes=6000.0)  # 20 passes for each of 300 steps, at two an order
    assert poor["neumann_order"].value == 10
    large = theory_of(constants, "ba", mu=1e-3, dim_y=10_000)
    assert large["adjoint"].value == bl.ConjugateGradient(steps=theory.MOST["CG steps"])
    assert "costs too much" in large["adjoint"].reason


def test_the_upper_step_is_what_did_best_scaled_to_the_run(suggested, constants):
    reasons = {setting: (value, reason) for setting, value, reason in suggested.reasons}
    assert list(reasons) == ["lower_step", "adjoint_step", "upper_step"]
    finalists = [trial for trial in suggested.trials if trial.steps == max(t.steps for t in suggested.trials)]
    assert len(finalists) == KEPT[-1]
    best = min(finalists, key=lambda trial: trial.loss)
    expected = best.upper_step * (best.steps / suggested.steps) ** 0.5
    assert reasons["upper_step"][0] == pytest.approx(expected)
    assert float(suggested.solver.upper_step.rate(0)) == pytest.approx(expected)
    for setting, value, reason in suggested.reasons:
        assert setting in str(suggested) and reason in str(suggested) and f"{value:.4g}" in str(suggested)


def test_the_suggested_solver_converges_within_the_budget(task, suggested):
    assert suggested.samples["trial"] < 0.3 * BUDGET
    solution = bl.solve(
        task.problem, suggested.solver, task.x, task.y, steps=suggested.steps, key=KEY, metrics=task.metrics
    )
    spent = sum(solution.stats[kind] for kind in "FGHJ") + sum(suggested.samples.values())
    assert 0.9 * BUDGET < spent < 1.05 * BUDGET
    assert solution.history["correct digits"][-1] > 1.2


def test_what_the_user_gave_is_kept(task):
    found = bl.suggest(task.problem, task.x, task.y, solver="soba[lower_step=0.05]", key=KEY, budget=BUDGET)
    assert ("lower_step", 0.05, "given") in found.reasons and float(found.solver.lower_step.rate(0)) == 0.05
    mine = bl.ITDBiO(1e9, 1e9, inner_steps=99, truncation=2, warm_start=False)
    found = bl.suggest(task.problem, task.x, task.y, solver=mine, key=KEY, budget=BUDGET)
    assert (found.solver.truncation, found.solver.warm_start) == (2, False)  # the theorem says nothing of these
    assert found.solver.inner_steps < 99 and float(found.solver.lower_step.rate(0)) < 1


def test_candidates_span_from_too_small_for_the_run_to_a_leap():
    steps = _bracket(loss=2.0, norm=0.5, steps=1000, normalized=False)
    assert steps[-1] == 8.0  # f/‖h‖²
    assert FACTOR * 8.0 / 1000 > FACTOR * steps[0] > 8.0 / 1000 / FACTOR  # f/(K‖h‖²)
    assert np.allclose(np.divide(steps[1:], steps[:-1]), FACTOR)
    assert _bracket(loss=2.0, norm=0.5, steps=1000, normalized=True)[-1] == 4.0  # f/‖h‖
    with pytest.raises(ValueError, match="start where it is not zero"):
        _bracket(loss=2.0, norm=0.0, steps=1000, normalized=False)


def test_the_same_key_gives_the_same_suggestion_and_another_one_compiles_nothing(task, suggested, compiled):
    again = bl.suggest(task.problem, task.x, task.y, solver="soba", key=KEY, budget=BUDGET)
    assert eqx.tree_equal(again.solver, suggested.solver)
    assert again.trials == suggested.trials
    other = bl.suggest(task.problem, task.x, task.y, solver="soba", key=jax.random.key(1), budget=BUDGET)
    assert other.trials != suggested.trials
    assert compiled == []


def test_the_judge_is_the_upper_loss_at_the_lower_solution_to_first_order(task):
    problem, x = task.problem, jnp.ones(3)
    y_star = jnp.asarray(task.y_star(x), jnp.float32)

    def upper(y):
        return float(problem.upper.loss(x, y, problem.upper.all_rows().rows))

    for size in (0.1, 0.01):
        y = y_star + size
        _, norm, v = _survey(problem.with_batch_size(None), x, y, KEY)
        settled = float(_settled_loss(problem.with_batch_size(None), x, y, v))
        assert abs(settled - upper(y_star)) < 0.6 * 4 * size**2 + 1e-5  # ½‖y − y*‖², against a first-order
        assert abs(upper(y) - upper(y_star)) > 0.1 * size
    assert float(norm) == pytest.approx(np.linalg.norm(task.hypergradient(x)), rel=0.05)


def test_candidates_that_diverge_are_out():
    problem = bl.Problem(
        # its height makes the largest candidate leap to where it overflows
        bl.Level(lambda x, y, _: 1e4 + (y - 1.0) ** 2 + 1e30 * jnp.maximum(0.0, jnp.abs(y - 1.0) - 9.0) ** 3),
        bl.Level(lambda x, y, _: 0.5 * (y - 3.0 * x) ** 2),
    )
    found = bl.suggest(problem, 1.0, 3.0, solver="aid", key=KEY, budget=4000)
    losses = [trial.loss for trial in found.trials]
    assert math.inf in losses
    assert min(losses) < 1e4 + 4.0


def curved(curvature):
    return bl.Problem(bl.Level(lambda x, y, _: (y - x) ** 2), bl.Level(lambda x, y, _: curvature * y**2 - x * y))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"solver": "sobo"}, ValueError, "solver: 'sobo' is unknown; did you mean soba"),
        ({"solver": 3}, TypeError, "solver: got 3; pass a solver"),
        ({"solver": bl.RecursiveMomentum}, ValueError, "no theorem here for RecursiveMomentum; .*pass one of itd"),
        ({"solver": lambda upper_step: 3}, ValueError, "no theorem here for <lambda>"),
        ({"solver": "soba[upper_step=1]"}, ValueError, "has an upper_step, which is what the trial finds"),
        ({"solver": "soba[lower_step=1,2]"}, ValueError, "names 2 solvers"),
        ({"problem": curved(0.0)}, ValueError, "least curvature .* is 0.*add a regularizer"),
        ({"problem": curved(-1.0)}, ValueError, "least curvature .* is -2.*strongly convex"),
        ({"key": None}, ValueError, "key: missing"),
        ({"budget": 0}, ValueError, "budget: got 0"),
        ({"budget": 2.5}, TypeError, "budget: got 2.5"),
        ({"budget": 3}, ValueError, "budget: got 3, but the measurements took"),
    ],
)
def test_errors_say_what_to_do(changes, error, message):
    arguments = {"problem": curved(1.0), "solver": "soba", "key": KEY, "budget": 4000} | changes
    with pytest.raises(error, match=message):
        bl.suggest(arguments.pop("problem"), 1.0, 0.0, **arguments)


def test_compare_with_suggested_settings(tmp_path):
    options = ["--suggest", "--solvers", "soba", "--seeds", "1", "--set", "dim_x=2", "--out", str(tmp_path)]
    result = CliRunner(env={"COLUMNS": "100"}).invoke(app, ["compare", "quadratic", *options])
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "summary.json").read_text())
    text = (tmp_path / "suggestions.txt").read_text()
    reasons = {setting: (value, why) for setting, value, why in summary["suggested"]["soba"]["reasons"]}
    assert float(reasons["upper_step"][0]) == pytest.approx(summary["settings"]["soba"]["upper_step"])
    assert reasons["lower_step"][1] in text
    assert summary["budget"]["steps"]["soba"] == summary["runs"][0]["stats"]["steps"]
    assert summary["solvers"]["soba"]["metrics"]["correct digits"]["mean"] > 2
    assert "suggestions.txt" in result.output
