"""The recorders `Watch` and `SmoothnessRecorder`."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel import tasks
from bilevel.diagnostics.recorders import _COLUMNS as DIAGNOSED

KEY = jax.random.key(0)
TASK = tasks.quadratic(dim_x=3, dim_y=4, mu=0.5, L=4.0, noise=0.1, rows=50, batch_size=5)
SOBA = bl.SOBA(upper_step=0.02, lower_step=0.1, adjoint_step=0.1)


def solve(solver=SOBA, problem=TASK.problem, x=TASK.x, y=TASK.y, steps=40, every=10, watched=None, **options):
    if watched is not None:
        options["recorders"] = [bl.Watch(problem, every=watched)]
    return bl.solve(problem, solver, x, y, steps=steps, every=every, key=KEY, signs=False, **options)


def test_columns_hold_residuals_and_curvature():
    states = []
    solution = solve(watched=20, callbacks=[lambda s: states.append(s.state)])
    history = solution.history
    assert history.columns == ["step", "seconds", "F", "G", "H", "J", *DIAGNOSED]
    for name in DIAGNOSED:
        assert np.isfinite(history[name]).tolist() == [True, False, True, False, True]
    x, y, v = (np.asarray(part, np.float64) for part in (states[-1].x, states[-1].y, states[-1].v))
    G_y, r, F_y = TASK.A @ y - TASK.B @ x - TASK.c, TASK.A @ v - (y - TASK.target), y - TASK.target
    last = {name: history[name][-1] for name in DIAGNOSED}
    assert last["lower residual"] == pytest.approx(np.linalg.norm(G_y), rel=1e-4)
    assert last["adjoint residual"] == pytest.approx(np.linalg.norm(r) / np.linalg.norm(F_y), rel=1e-4)
    assert history["adjoint residual"][0] == pytest.approx(1.0)  # v starts at zero
    assert last["least curvature"] == pytest.approx(0.5, rel=1e-3)
    assert last["largest curvature"] == pytest.approx(4.0, rel=1e-3)


def test_the_run_is_the_same():
    plain, watched = solve(), solve(watched=10)
    np.testing.assert_array_equal(plain.x, watched.x)
    np.testing.assert_array_equal(plain.y, watched.y)
    assert {kind: plain.stats[kind] for kind in "FGHJ"} == {kind: watched.stats[kind] for kind in "FGHJ"}
    half = solve(steps=20, watched=20)
    watch = bl.Watch(TASK.problem, every=20)
    whole = bl.solve(TASK.problem, SOBA, half, steps=20, every=10, recorders=[watch])
    for name in DIAGNOSED:
        np.testing.assert_array_equal(whole.history[name], solve(watched=20).history[name])


def test_the_clock_does_not_hold_it(clock):
    def slow(solution):
        clock.now += 10.0
        return {"seconds away": clock.now}

    solution = solve(recorders=[slow])
    assert solution.history["seconds away"][-1] > 50
    assert 0 < solution.stats["run_seconds"] < 1


def test_rows_that_do_not_fall_on_its_steps():
    """The first row at or after each multiple."""
    history = solve(watched=15).history
    assert np.isfinite(history["lower residual"]).tolist() == [True, False, True, True, False]


def test_adjoints_and_none():
    borep = bl.BOREP(0.02, 0.1, 0.1, initial=bl.EpochSGD.plain(steps=1, rate=0.1))
    history = solve(borep, watched=20).history
    assert history["adjoint residual"][0] == pytest.approx(1.0)
    assert history["adjoint residual"][-1] < 0.9
    itd = bl.ITDBiO(upper_step=0.02, lower_step=0.1, inner_steps=2)
    history = solve(itd, watched=20).history
    assert np.isnan(history["adjoint residual"]).all()
    assert np.isfinite(history["lower residual"][[0, 2, 4]]).all()


def saddle(x, y, batch):
    """Curvature −0.01 in y₁, which 40 small steps hardly leave."""
    return 0.5 * (y[0] - x) ** 2 - 0.005 * y[1] ** 2


def test_a_negative_curvature_is_warned_of_once():
    problem = bl.Problem(bl.Level(lambda x, y, _: jnp.sum((y - 1) ** 2)), bl.Level(saddle))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        solution = solve(problem=problem, x=0.5, y=np.ones(2, np.float32), watched=10)
    (warning,) = caught
    assert warning.category is bl.DiagnosisWarning
    assert str(warning.message).startswith("not strongly convex: the lower level has a curvature of -0.01 at step 0")
    assert warning.filename == __file__
    np.testing.assert_allclose(solution.history["least curvature"], -0.01, rtol=1e-3)


def test_a_growing_residual_is_warned_of_once():
    solver = bl.SOBA(upper_step=0.02, lower_step=0.6, adjoint_step=0.1)  # 0.6 > 2/L
    with pytest.warns(bl.DiagnosisWarning, match="lower residual grows: ‖G_y‖ is .* at step 20") as caught:
        solve(solver, watched=10)
    assert len(caught) == 1


def test_growth_is_measured_from_the_first_rows_of_a_run_that_resumes(tmp_path):
    solver = bl.SOBA(upper_step=0.02, lower_step=0.53, adjoint_step=0.1)  # grows slowly
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        growth = solve(solver, watched=10, steps=60).history["lower residual"]
    first = growth[:2].max()
    assert growth[3] < 10 * first < growth[4] and growth[6] < 10 * growth[5]  # from the first rows alone
    solve(solver, watched=10, steps=30, checkpoint=tmp_path)
    with pytest.warns(bl.DiagnosisWarning, match="lower residual grows"):
        solve(solver, watched=10, steps=60, checkpoint=tmp_path)


def test_a_good_start_is_no_growth():
    """At y*(x) the residual is zero, and then it is noise."""
    y = TASK.y_star(TASK.x).astype(np.float32)
    history = solve(y=y, steps=200, watched=10).history["lower residual"]
    assert history[0] < 1e-5 < 1e-3 < history[-1]


def test_errors_name_the_argument():
    with pytest.raises(TypeError, match="every: got 2.5"):
        solve(watched=2.5)
    with pytest.raises(ValueError, match="metrics: 'lower residual' is a column of the history already"):
        solve(watched=10, metrics=lambda x, y: {"lower residual": 1.0})


# the (L0, L1) recorder


def exponential(x, y, batch):
    """Φ = Σ exp(2 x_j) when y* = x: ‖∇²Φ‖ along ∇Φ's direction is 2‖∇Φ‖ for one x."""
    return jnp.sum(jnp.exp(2.0 * y))


def parabola(x, y, batch):
    return 1.5 * jnp.sum(y**2)


def identity(x, y, batch):
    return 0.5 * jnp.sum((y - x) ** 2)


@pytest.mark.parametrize(("upper", "L0", "L1"), [(exponential, 0.0, 2.0), (parabola, 3.0, 0.0)])
def test_the_constants_of_a_known_function(upper, L0, L1):
    problem = bl.Problem(bl.Level(upper), bl.Level(identity))
    recorder = bl.SmoothnessRecorder(problem)
    solver = bl.AIDBiO(upper_step=0.005, lower_step=1.0, inner_steps=1)
    solve(solver, problem, 1.0, 1.0, steps=120, every=1, recorders=[recorder])
    assert len(recorder.ratios) == len(recorder.norms) == 120
    assert recorder.fit() == pytest.approx((L0, L1), abs=0.01)
    assert max(recorder.norms) > 3 * min(recorder.norms)
    figure = recorder.plot()
    assert figure.axes[0].get_legend_handles_labels()[1][1] == f"{recorder.fit()[0]:.3g} + {recorder.fit()[1]:.3g} ‖∇Φ‖"


def test_the_recorder_takes_all_rows_and_other_leaves():
    recorder = bl.SmoothnessRecorder(TASK.problem, method=bl.Direct())
    with pytest.raises(ValueError, match="SmoothnessRecorder: it has 0 ratios"):
        recorder.fit()
    history = solve(recorders=[recorder], steps=200).history
    np.testing.assert_array_equal(history["smoothness"][1:], recorder.ratios)
    assert np.isnan(history["gradient norm"][0])
    assert max(recorder.ratios) <= 1.001 * TASK.upper_smoothness
    assert min(recorder.ratios) >= 0.5  # ν, the least eigenvalue of ∇²Φ or below it
    assert len(recorder.ratios) == 20
    whole = recorder._whole
    solve(recorders=[recorder], steps=10)
    assert recorder._whole is whole  # is not taken again for each row
    with pytest.raises(TypeError, match="method: got 'cg'"):
        bl.SmoothnessRecorder(TASK.problem, method="cg")
