"""A kept run is found again by all that determined its rows: other code, other rates and other data are other runs."""

import dataclasses
import importlib
import sys
import textwrap

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel import datasets
from bilevel.compare import _compare as module
from bilevel.compare import compare
from bilevel.tasks import Search, Task, Tuned

SOBA = bl.SOBA(upper_step=0.01, lower_step=0.5, adjoint_step=0.5)
SOURCE = """
import bilevel as bl
import jax.numpy as jnp
from bilevel.tasks import Task
AIM = {aim}
def upper(x, y, _):
    return 0.5 * (y - AIM) ** 2
def lower(x, y, _):
    return 0.5 * (y - 3.0 * x) ** 2
def metrics(x, y):
    return {{"score": -abs(y - {goal})}}
def make():
    problem = bl.Problem(bl.Level(upper), bl.Level(lower))
    return Task(name="t", problem=problem, x=jnp.ones(()), y=jnp.zeros(()), metrics=metrics, score="score")
"""


def near(aim=1.0, *, goal=0.0, scale=3.0, high=99.0, start=1.0, **options):
    """A task with numbers in the closures of its losses, of its projection and of its metrics."""
    problem = bl.Problem(
        bl.Level(lambda x, y, _: 0.5 * (y - aim) ** 2),
        bl.Level(lambda x, y, _: 0.5 * (y - scale * x) ** 2),
        project=lambda x: jnp.clip(x, -high, high),
    )
    options = {"metrics": lambda x, y: {"score": -abs(y - goal)}} | options
    return Task(name="t", problem=problem, x=jnp.array(start), y=jnp.zeros(()), score="score", **options)


def stepping(step):
    return bl.SOBA(upper_step=step, lower_step=0.5, adjoint_step=0.5)


def rows(task, solver=SOBA, where=None, **options):
    """The rows of one run, without the clock."""
    comparison = compare(task, {"mine": solver}, **{"seeds": 1, "steps": 40, "checkpoint": where} | options)
    assert comparison.runs[0].result == "successful", comparison.runs[0].message
    return [{name: value for name, value in row.items() if name != "seconds"} for row in comparison.runs[0].rows]


def executed(**values):
    """What a notebook defines: its functions belong to `__main__`, which has no file."""
    names = {"__name__": "__main__"}
    exec(SOURCE.format(**values), names)
    return names["make"]()


@pytest.fixture
def runs(monkeypatch):
    """Counts the runs that are made, and not found."""
    made, run = [], module.run

    def counted(*arguments, **options):
        made.append(options["seed"])
        return run(*arguments, **options)

    monkeypatch.setattr(module, "run", counted)
    return made


@pytest.mark.parametrize(
    "make",
    [
        optax.sgd,
        lambda rate: lambda t: rate,
        lambda rate: optax.exponential_decay(rate, 10, 0.9),
        lambda rate: bl.Rule(lambda lr: optax.chain(optax.clip(100 * rate), optax.sgd(lr)), 0.01),
        # a number that only the first state holds
        lambda rate: optax.adagrad(0.1, initial_accumulator_value=rate),
    ],
)
def test_rates_inside_functions_tell_runs_apart(make, runs, tmp_path):
    first, second = rows(near(), stepping(make(0.01)), tmp_path), rows(near(), stepping(make(1e-5)), tmp_path)
    assert len(runs) == 2 and first != second
    assert second == rows(near(), stepping(make(1e-5)))
    assert rows(near(), stepping(make(0.01)), tmp_path) == first and len(runs) == 3  # defined anew, it is found


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"aim": 50.0}, {}),
        ({"scale": 2.0}, {}),
        ({"start": 2.0}, {}),
        ({"goal": 7.0}, {}),  # of the metrics alone
        ({"high": 0.9}, {}),
        ({"aim": 50.0}, {"untimed": True}),
        ({"goal": 7.0}, {"untimed": True}),
    ],
)
def test_numbers_inside_a_task_tell_runs_apart(changes, options, tmp_path):
    first, second = (rows(near(**given), where=tmp_path, **options) for given in ({}, changes))
    assert first != second == rows(near(**changes), **options)


def test_a_task_of_a_notebook_is_told_apart_by_its_code(runs, tmp_path):
    for i, values in enumerate(({"aim": 1.0, "goal": 1.0}, {"aim": 50.0, "goal": 1.0}, {"aim": 1.0, "goal": 2.0})):
        found = rows(executed(**values), where=tmp_path)
        assert len(runs) == i + 1 and found == rows(executed(**values), where=tmp_path)
        assert len(runs) == i + 1


def test_code_that_a_file_imports_counts(runs, tmp_path, monkeypatch):
    """As `bilevel compare task.py:make` has it, with losses and metrics in another file."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_task.py").write_text(
        textwrap.dedent("""
            import own_losses, bilevel as bl, jax.numpy as jnp
            from bilevel.tasks import Task
            def metrics(x, y): return own_losses.measured(x, y)
            def make():
                problem = bl.Problem(bl.Level(own_losses.upper), bl.Level(own_losses.lower))
                return Task(name="t", problem=problem, x=jnp.ones(()), y=jnp.zeros(()), metrics=metrics, score="score")
        """)
    )
    found = []
    for i, values in enumerate(({"aim": 1.0, "goal": 1.0}, {"aim": 50.0, "goal": 1.0}, {"aim": 1.0, "goal": 2.125})):
        text = SOURCE.format(**values).replace("def metrics", "def measured") + "#" * i
        (tmp_path / "own_losses.py").write_text(text)
        if i:
            importlib.reload(sys.modules["own_losses"])
        found.append(rows(f"{tmp_path / 'own_task.py'}:make", where=tmp_path / "kept"))
        assert len(runs) == i + 1
    assert found[0] != found[1] and found[0][0]["score"] != found[2][0]["score"]
    for name in ("own_losses", "own_task"):
        del sys.modules[name]


def digits(**changes):
    """A data set of a user's own; long enough that NumPy leaves out the middle of its text."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 1200).astype(np.int32)
    features = (labels[:, None] + rng.normal(size=(1200, 3))).astype(np.float32)
    given = {"features": features, "labels": labels, "classes": 2, "train_rows": 1200} | changes
    return datasets.Dataset(**given)


def cleaned(dataset, where, **options):
    options = {"task_settings": {"dataset": dataset, "trusted": 20}, "checkpoint": where, **options}
    comparison = compare("cleaning", ["soba"], seeds=1, steps=10, **options)
    return comparison.runs[0].rows[-1]["test loss"], comparison.references


def test_other_data_are_other_runs_and_other_reference_rows(runs, tmp_path):
    plain = digits()
    labels = plain.labels.copy()
    labels[100:1100] = 1 - labels[100:1100]
    first, second = cleaned(plain, tmp_path), cleaned(digits(labels=labels), tmp_path)
    assert first[0] != second[0] and first[1] != second[1] and len(runs) == 2
    assert cleaned(digits(labels=labels), tmp_path) == second and len(runs) == 2


def test_the_rows_that_only_metrics_see_count(runs, tmp_path):
    first = cleaned(digits(), tmp_path)
    made = module.settings.make_task("cleaning", 0, {"dataset": digits(), "trusted": 20})
    seen = np.asarray(made.data.test_features)
    features = digits().features.copy()
    of_test = (features[:, None] == seen[None]).all(2).any(1)
    of_test[:3] = of_test[-3:] = False  # these are in a text of the array
    features[of_test] += 1.0
    second = cleaned(digits(features=features), tmp_path)
    assert first[0] != second[0] and first[1] != second[1] and len(runs) == 2


def test_rows_of_a_search_are_those_of_its_box_and_of_its_problem(tmp_path):
    def reached(task):
        found = compare(task, {"mine": SOBA}, seeds=1, steps=200, search=True, checkpoint=tmp_path)
        return found.references["random search"][0]

    def boxed(high, factor=1.0, **options):
        return near(1.0, goal=1.0, search=Search(low=(-high,), high=(high,), x=lambda z: factor * z[0]), **options)

    first = reached(boxed(2.0))
    assert reached(boxed(2.0)) == first
    assert len({first, reached(boxed(40.0)), reached(boxed(2.0, 5.0)), reached(boxed(2.0, scale=300.0))}) == 4


def test_a_solver_runs_on_the_task_that_its_settings_ask_for_and_is_found_by_it(runs, tmp_path):
    """The task of the others may be the same where its own has changed."""
    tuned = {"saba": Tuned(10, task={"source": "blocks"})}

    def making(shift):
        def made(seed, source="rows"):
            data = {"rows": bl.Rows, "blocks": bl.Blocks}[source](np.arange(12, dtype=np.float32))
            upper = bl.Level(lambda x, y, b: jnp.mean((y - b) ** 2), data=data, batch_size=4)
            at = shift if source == "blocks" else 0.0
            lower = bl.Level(lambda x, y, b: jnp.mean((y - x - at * b) ** 2), data=data, batch_size=4)
            return dataclasses.replace(near(), problem=bl.Problem(upper, lower), tuned=tuned)

        return made

    found = []
    for shift in (1.0, 2.0):
        saba = {"saba": bl.SABA(upper_step=0.01, lower_step=0.1, adjoint_step=0.1)}
        run = compare(making(shift), saba, seeds=1, steps=10, checkpoint=tmp_path).runs[0]
        assert run.result == "successful", run.message
        found.append(run.rows[-1]["score"])
    assert found[0] != found[1] and len(runs) == 2


def test_a_solver_that_cannot_run_spares_the_others_with_a_checkpoint_too(tmp_path):
    solvers = {"broken": bl.SABA(upper_step=0.01, lower_step=0.1, adjoint_step=0.1), "mine": SOBA}
    noisy = {"dim_x": 2, "dim_y": 2, "noise": 0.1, "rows": 12, "batch_size": 5, "source": "rows"}
    for options in ({}, {"untimed": True}):
        found = compare("quadratic", solvers, seeds=1, steps=2, task_settings=noisy, checkpoint=tmp_path, **options)
        assert [run.result for run in found.runs] == ["error", "successful"]
        assert "SABA keeps a table entry for each block" in found.runs[0].message


def test_arguments_without_a_text_of_their_own_are_found_again(runs, tmp_path):
    """The text of a function has an address, which another process does not repeat."""

    def made(aim):
        return near(aim())

    for _ in range(2):
        rows(made, where=tmp_path, task_settings={"aim": lambda: 1.0})
    assert len(runs) == 1


def test_a_run_needs_no_second_trace_and_neither_do_other_seeds(tmp_path, monkeypatch):
    traced, step = [], bl.SOBA.step

    def counted(self, *arguments, **options):
        traced.append(1)
        return step(self, *arguments, **options)

    monkeypatch.setattr(bl.SOBA, "step", counted)
    counts = []
    for dim_y, where in ((3, None), (4, tmp_path / "kept")):  # shapes that no other test has traced
        traced.clear()
        settings = {"dim_x": 7, "dim_y": dim_y}
        compare("quadratic", ["soba"], seeds=3, steps=4, task_settings=settings, checkpoint=where)
        counts.append(len(traced))
    assert counts[0] == counts[1] > 0


def test_rows_on_disk_count(runs, tmp_path):
    def made(scale):
        path = tmp_path / "rows.npy"
        path.unlink(missing_ok=True)
        np.save(path, np.arange(8, dtype=np.float32) * scale)
        level = bl.Level(lambda x, y, b: 0.5 * jnp.mean((y - x - b) ** 2), data=bl.OnDisk(path), batch_size=4)
        return dataclasses.replace(near(), problem=bl.Problem(near().problem.upper, level))

    first, second = rows(made(1.0), where=tmp_path / "kept"), rows(made(2.0), where=tmp_path / "kept")
    assert first != second and len(runs) == 2
    assert rows(made(1.0), where=tmp_path / "kept") == first and len(runs) == 2


def test_seeds_with_losses_of_their_own_are_not_run_by_the_first_ones():
    """One program holds one number of each closure."""
    comparison = compare(lambda seed: near(1.0 + seed), {"mine": SOBA}, seeds=2, steps=4, untimed=True)
    assert all("untimed: the seeds' losses differ" in run.message for run in comparison.runs)
    alike = compare(lambda seed: near(start=1.0 + seed), {"mine": SOBA}, seeds=2, steps=4, untimed=True)
    assert [run.result for run in alike.runs] == ["successful"] * 2
