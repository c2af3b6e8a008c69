"""Comparisons that resume after an interruption, and those whose seeds run at once."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel import tasks
from bilevel.compare import _compare as module
from bilevel.compare import compare, tables

SOBA = bl.SOBA(upper_step=0.01, lower_step=0.5, adjoint_step=0.5)
CLOCK = ("seconds", "compile_seconds", "run_seconds")


def small(**options):
    return compare("quadratic", ["soba", "aid"], seeds=2, steps=40, task_settings={"dim_x": 2, "dim_y": 2}, **options)


def numbers(comparison):
    """All but the clock."""
    return {
        (run.solver, run.seed): (
            run.result,
            [{name: value for name, value in row.items() if name not in CLOCK} for row in run.rows],
            {name: value for name, value in run.stats.items() if name not in CLOCK},
        )
        for run in comparison.runs
    }


@pytest.fixture(scope="module")
def whole():
    return small()


def test_cut_off_anywhere_it_goes_on_to_the_same_numbers(whole, monkeypatch, tmp_path):
    solve, calls = module.solve, []

    def counted(*arguments, callbacks=(), **options):
        def look(solution):
            calls.append(solution.stats["steps"])
            if len(calls) in (7, 50):  # in the middle of the first run, and of the third
                raise KeyboardInterrupt

        return solve(*arguments, callbacks=[*callbacks, look], **options)

    monkeypatch.setattr(module, "solve", counted)
    first, second, third = (small(checkpoint=tmp_path) for _ in range(3))
    assert first.interrupted and second.interrupted and not third.interrupted
    assert calls[:8] == [0, 2, 4, 6, 8, 10, 12, 14]  # goes on at 12
    assert numbers(third) == numbers(whole)
    assert len(calls) == 4 * 21
    again = small(checkpoint=tmp_path)
    assert numbers(again) == numbers(whole) and len(calls) == 4 * 21
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_other_settings_are_other_runs(whole, monkeypatch, tmp_path):
    small(checkpoint=tmp_path)
    quarter = {"task_settings": {"dim_x": 2, "dim_y": 2}, "checkpoint": tmp_path}
    other = compare("quadratic", ["soba"], seeds=1, steps=20, **quarter)
    assert other.runs[0].rows[-1]["step"] == 20
    monkeypatch.setattr(module, "run", None)  # all of them are there
    assert numbers(small(checkpoint=tmp_path)) == numbers(whole)


def test_reference_rows_are_kept(monkeypatch, tmp_path):
    arguments = {"solvers": ["soba"], "seeds": 1, "steps": 2, "checkpoint": tmp_path}
    first = compare("cleaning", **arguments)
    assert "Data: digits: 1,797 rows in 10 classes." in tables.notes(first)
    monkeypatch.setattr(module, "references", None)
    assert compare("cleaning", **arguments).references == first.references
    assert len(first.references) == 4


def test_seeds_at_once_give_the_same_runs(whole, tmp_path):
    at_once = small(untimed=True, checkpoint=tmp_path)
    assert [(run.solver, run.seed) for run in at_once.runs] == [("soba", 0), ("soba", 1), ("aid", 0), ("aid", 1)]
    for key, (result, rows, stats) in numbers(at_once).items():
        wanted = numbers(whole)[key]
        assert result == wanted[0]
        for row, other in zip([*rows, stats], [*wanted[1], wanted[2]], strict=True):
            # conjugate gradient's last step, or not, is a matter of rounding
            np.testing.assert_allclose([*row.values()], [*other.values()], rtol=2e-4 if key[0] == "soba" else 0.05)
    seconds = [run.stats["run_seconds"] for run in at_once.of("soba")]
    assert seconds[0] == seconds[1] and math.isfinite(seconds[0])
    assert any("seconds are the total time" in note for note in tables.notes(at_once))
    assert not any("seconds are the total time" in note for note in tables.notes(whole))


def test_metrics_of_seeds_at_once_are_kept_as_numbers(tmp_path):
    """A scalar of JAX would come back as text."""
    made = tasks.quadratic(dim_x=2, dim_y=2)
    task = dataclasses.replace(made, metrics=lambda x, y: {"correct digits": jnp.sum(x)})
    first, again = (
        compare(task, {"mine": SOBA}, seeds=2, steps=4, untimed=True, checkpoint=tmp_path) for _ in range(2)
    )
    assert numbers(first) == numbers(again)
    assert all(type(run.rows[-1]["correct digits"]) is float for run in (*first.runs, *again.runs))


def test_seeds_at_once_have_no_clock_of_their_own():
    with pytest.raises(ValueError, match="untimed: got seconds too"):
        compare("quadratic", ["soba"], seeds=2, seconds=1.0, untimed=True)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="checkpoint: cannot write to"):
        small(checkpoint=tmp_path / "file")


def test_tasks_of_seeds_at_once_are_made_once(monkeypatch):
    made, make_task = [], module.settings.make_task

    def counted(name, seed, changes):
        made.append(seed)
        return make_task(name, seed, changes)

    monkeypatch.setattr(module.settings, "make_task", counted)
    small(untimed=True)
    assert made == [0, 1]


def test_an_error_spares_the_other_solvers(monkeypatch):
    together = module.together

    def broken(*arguments, label, **options):
        if label == "soba":
            raise RuntimeError("out of luck")
        return together(*arguments, label=label, **options)

    monkeypatch.setattr(module, "together", broken)
    comparison = small(untimed=True)
    assert [run.result for run in comparison.runs] == ["error", "error", "successful", "successful"]
