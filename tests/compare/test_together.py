"""Seeds that run together give the same runs as one by one."""

import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel import tasks
from bilevel.compare import _compare as compare
from bilevel.compare._compare import together

SEEDS = (0, 3)


@pytest.fixture(scope="module")
def problems():
    return [tasks.quadratic(dim_x=2, dim_y=3, noise=0.1, rows=50, batch_size=5, seed=seed) for seed in SEEDS]


@pytest.mark.parametrize(
    "solver",
    [
        bl.SOBA(upper_step=0.03, lower_step=0.1, adjoint_step=0.1),
        bl.BOREP(bl.inverse_power(0.1, 0.5), 0.1, 0.1, initial=bl.EpochSGD.plain(5, 0.1)),
        bl.SUSTAIN(0.02, 0.1, neumann_order=5, neumann_step=0.1, upper_storm_weight=0.3, lower_storm_weight=0.3),
    ],
    ids=lambda solver: type(solver).__name__,
)
def test_together_is_one_by_one_to_rounding(problems, solver):
    runs = together(problems, solver, label="a", seeds=SEEDS, steps=30, rows=4)
    for seed, task, run in zip(SEEDS, problems, runs, strict=True):
        alone = compare.run(task, solver, seed=seed, steps=30, rows=4)
        assert run.seed == seed and run.result == "successful"
        assert [row["step"] for row in run.rows] == alone.history["step"].tolist() == [0, 8, 16, 24, 30]
        for column in ("distance", "lower distance"):
            np.testing.assert_allclose([row[column] for row in run.rows], alone.history[column], rtol=2e-4)
        for kind in "FGHJ":
            assert [row[kind] for row in run.rows] == alone.history[kind].tolist()
            assert run.stats[kind] == alone.stats[kind]
        assert run.stats["steps"] == 30


def test_a_seed_that_diverges_leaves_the_others_alone(problems):
    def loss(x, y, batch):
        return jnp.mean((y - batch["a"] * x) ** 2) / 2

    def wild(x, y, batch):
        return jnp.mean((y - 1.0) ** 2) / 2 * jnp.mean(batch["a"])

    made = []
    for a in (1.0, 1e6):  # the second's upper gradient blows x up
        problem = bl.Problem(
            bl.Level(wild, {"a": np.full(4, a, np.float32)}), bl.Level(loss, {"a": np.ones(4, np.float32)})
        )
        x, y = jnp.zeros(()), jnp.zeros(())
        made.append(tasks.Task(name="t", problem=problem, x=x, y=y, metrics=lambda x, y: {"x": float(x)}, score="x"))
    solver = bl.SOBA(upper_step=0.1, lower_step=0.5, adjoint_step=0.5)
    good, bad = together(made, solver, label="a", seeds=(0, 1), steps=100, rows=10)
    assert good.result == "successful" and len(good.rows) == 11
    assert bad.result == "nonfinite" and 1 <= len(bad.rows) < 11 and f"after step {bad.stats['steps']}: " in bad.message
    assert all(np.isfinite(row["x"]) for row in bad.rows)
    assert bad.stats["steps"] == bad.rows[-1]["step"]
