"""A run is told from others by all that its numbers depend on; a checkpoint is taken up only by its own run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel.run import _identity as module
from bilevel.run._identity import computation, described, fingerprint


def hidden(c):
    """A lower loss with an array in its closure."""
    c = np.asarray(c, np.float32)
    return lambda x, y, _: 0.5 * jnp.sum((y - x) ** 2) + 0.05 * jnp.sum(c * y**2)


def clip(high):
    return lambda x: x.clip(-1.0, high)


def nearest(target):
    return lambda x, y, _: 0.5 * jnp.sum((y - target) ** 2)


def run(
    where=None,
    *,
    upper=None,
    lower=None,
    project=None,
    step=0.1,
    start=None,
    steps=4,
    key=0,
    **options,
):
    upper, lower = nearest(1.0) if upper is None else upper, hidden(np.ones(3)) if lower is None else lower
    problem = bl.Problem(bl.Level(upper), bl.Level(lower), project)
    solver = bl.SOBA(upper_step=step, lower_step=0.5, adjoint_step=0.5)
    begin = (jnp.ones(3), jnp.zeros(3)) if start is None else (start,)
    key = jax.random.key(key) if start is None else None
    options = {"every": 2, "progress": False} | options
    return bl.solve(problem, solver, *begin, steps=steps, key=key, checkpoint=where, **options)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The directory of a run."""
    where = tmp_path_factory.mktemp("kept") / "run"
    run(where, project=clip(2.0))
    return where


CLIP = {"project": clip(2.0)}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"lower": hidden([1.0, 1.0, 1.0 + 1e-6]), **CLIP}, "computation"),
        ({"upper": nearest(1.5), **CLIP}, "computation"),
        ({"project": clip(3.0)}, "computation"),
        ({"step": lambda t: 0.1 / (1 + t), **CLIP}, "solver"),
        ({"step": np.nextafter(0.1, 1), **CLIP}, "settings"),
    ],
)
def test_other_functions_are_another_run(kept, changes, name):
    with pytest.raises(bl.CheckpointError, match=f"belongs to another run: its {name}.* was"):
        run(kept, **changes)


def test_functions_that_are_defined_anew_are_the_same_run(kept):
    assert run(kept, project=clip(2.0)).stats["steps"] == 4


def test_another_schedule_is_another_run(tmp_path):
    def schedule(rate):
        return lambda t: rate / (1 + t)

    run(tmp_path, step=schedule(0.05))
    run(tmp_path, step=schedule(0.05))
    with pytest.raises(bl.CheckpointError, match="its computation"):
        run(tmp_path, step=schedule(0.5))


def test_another_start_of_a_rule_is_another_run(tmp_path):
    """It stands in no setting, as optax has it in a closure, and in no step."""

    def rule(start):
        return optax.adagrad(0.1, initial_accumulator_value=start)

    run(tmp_path, step=rule(0.1))
    run(tmp_path, step=rule(0.1))
    with pytest.raises(bl.CheckpointError, match="its computation"):
        run(tmp_path, step=rule(0.5))


def test_another_solution_to_continue_is_another_run(tmp_path):
    first = run()
    run(tmp_path, start=first)
    other = bl.Solution(**{**vars(first), "state": jax.tree.map(lambda leaf: leaf + 1, first.state)})
    with pytest.raises(bl.CheckpointError, match="its start was"):
        run(tmp_path, start=other)


@pytest.mark.parametrize("name", ["bilevel", "jax", "jaxlib", "python"])
def test_other_versions_are_another_run(kept, monkeypatch, name):
    assert json.loads((kept / "bilevel.json").read_text())[name] == module.versions()[name]
    other = module.versions() | {name: "99.0"}
    monkeypatch.setattr("bilevel.run._single.versions", lambda: other)
    with pytest.raises(bl.CheckpointError, match=f"its {name} was .* now it is 99.0"):
        run(kept, **CLIP)


def test_a_hash_of_a_computation_holds_its_constants_and_no_names():
    def of(function):
        return computation(jax.jit(function), jnp.ones(3))

    def scaled(c):
        return lambda x: jax.lax.fori_loop(0, 3, lambda i, z: jnp.tanh(z @ np.diag(c)), x)

    assert of(scaled(np.ones(3))) == of(scaled(np.ones(3)))
    assert of(scaled(np.ones(3))) != of(scaled(np.array([1, 1, 1 + 1e-6])))
    assert of(lambda x: x * 2.0) == of(lambda other: other * 2.0) != of(lambda x: x * 2.0000002)
    assert of(lambda x: x[:2]) != of(lambda x: x[1:])
    assert of(jax.nn.softplus) == of(lambda x: jax.nn.softplus(x))  # a custom derivative, with addresses in its text
    printing = [of(lambda x: jax.debug.print("{}", x)) for _ in range(2)]
    assert printing[0] == printing[1]


def test_a_hash_of_arrays_holds_every_entry():
    large = np.ones(5000)
    other = large.copy()
    other[2500] += 1e-12
    assert fingerprint(large) == fingerprint(large.copy()) != fingerprint(other)
    half = jnp.ones(3, jnp.bfloat16)
    assert fingerprint(half) != fingerprint(half.astype(jnp.float16)) != fingerprint(half * 2)


def test_words_for_a_tree_have_no_addresses():
    class Odd:
        pass

    assert "0x" in repr(Odd()) and "0x" not in described(({"a": Odd(), "b": np.ones(2)},))


def test_other_columns_are_another_run(tmp_path):
    run(tmp_path, metrics=lambda x, y: {"loss": 1.0})
    for steps in (4, 8):  # with nothing to do, too
        with pytest.raises(
            bl.CheckpointError, match="columns of its metrics and recorders were loss, now they are acc"
        ):
            run(tmp_path, steps=steps, metrics=lambda x, y: {"acc": 1.0})
        with pytest.raises(bl.CheckpointError, match="were loss, now they are none"):
            run(tmp_path, steps=steps)
    assert run(tmp_path, steps=8, metrics=lambda x, y: {"loss": 2.0}).history["loss"].tolist() == [1, 1, 1, 2, 2]


def test_columns_may_be_added_to_a_run_that_continues_another(tmp_path):
    def stop(solution):
        raise KeyboardInterrupt

    first, added = run(), {"metrics": lambda x, y: {"loss": 1.0}}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, start=first, metrics=lambda x, y: stop(None))
    assert run(tmp_path, start=first, **added).history.rows[-1]["loss"] == 1.0
    assert run(tmp_path, start=first, steps=8, **added).stats["steps"] == 12


def metrics(x, y):
    return {"x": float(x[0])}


def test_another_target_is_asked_again(tmp_path):
    start = run(metrics=metrics, steps=4).history["x"][1]
    near = bl.Target("x", at_most=start)
    first = run(tmp_path, metrics=metrics, steps=10, callbacks=[near])
    assert first.result == bl.RESULTS.target_reached and first.stats["steps"] < 10
    again = run(tmp_path, metrics=metrics, steps=10, callbacks=[near])
    assert (again.result, again.stats["steps"]) == (first.result, first.stats["steps"])
    far = run(tmp_path, metrics=metrics, steps=10, callbacks=[bl.Target("x", at_most=-9.0)])
    assert far.result == bl.RESULTS.successful and far.stats["steps"] == 10
    whole = run(metrics=metrics, steps=10)
    np.testing.assert_array_equal(far.x, whole.x)
    assert far.history["step"].tolist() == whole.history["step"].tolist()


def test_a_run_that_was_stopped_goes_on_if_nothing_stops_it(tmp_path):
    seen = []

    def stop(solution):
        seen.append(solution.stats["steps"])
        return bl.RESULTS.stopped if seen[-1] == 2 else None

    for steps in (6, 6, 20):
        solution = run(tmp_path, steps=steps, callbacks=[stop])
        assert solution.result == bl.RESULTS.stopped and solution.stats["steps"] == 2
    assert seen == [0, 2, 2, 2]
    solution = run(tmp_path, steps=6)
    assert solution.result == bl.RESULTS.successful and solution.stats["steps"] == 6
