"""What every solver must do: one list of solvers, crossed with properties."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import identical

import bilevel as bl
from bilevel import oracles
from bilevel.solvers.registry import SOLVERS

# g = ½‖A y − B x‖²-like with curvature in [1, 2]; f = ½‖y − 1‖² + ½‖x‖²; rows carry zero-mean noise
CURVATURE = np.array([1.0, 1.5, 2.0])
TARGET = np.array([1.0, -1.0, 0.5])
ROWS = 48
NOISE = np.random.default_rng(0).normal(size=(ROWS, 3))
NOISE -= NOISE.mean(axis=0)


def lower_loss(x, y, batch):
    z = y["a"]["deep"]
    shift = 0.0 if batch is None else 0.05 * jnp.mean(batch, axis=0)
    return 0.5 * jnp.sum(CURVATURE.astype(z.dtype) * z**2) - jnp.sum(z * (x["x"][0] + shift)) + 0.5 * (y["b"] - 1) ** 2


def upper_loss(x, y, batch):
    z = y["a"]["deep"]
    shift = 0.0 if batch is None else 0.05 * jnp.mean(batch, axis=0)
    return 0.5 * jnp.sum((z - TARGET.astype(z.dtype) + shift) ** 2) + 0.05 * jnp.sum(x["x"][0] ** 2) + 0.0 * y["b"]


# y* = x / c, Φ = ½ Σ (x/c − target)² + 0.05 x², so x* = (target / c) / (1/c² + 0.1)
X_STAR = (TARGET / CURVATURE) / (1 / CURVATURE**2 + 0.1)


def decaying(scale, power=0.5, offset=20.0):
    return bl.inverse_power(scale * offset**power, power, offset)


def make_solvers(scale=1.0):
    """Each registered solver, converging on the problem above; `scale` multiplies the upper step."""
    step = decaying(0.2 * scale)
    return {
        "itd": bl.ITDBiO(step, 0.5, 6),
        "aid": bl.AIDBiO(step, 0.5, 6, bl.ConjugateGradient(steps=3)),
        "stocbio": bl.StocBiO(step, 0.5, 6, neumann_order=8, neumann_step=0.5),
        "sustain": bl.SUSTAIN(decaying(0.05 * scale), 0.4, 8, 0.5, 0.5, 0.7),
        "fsla": bl.FSLA(decaying(0.1 * scale), 0.4, 0.4, 0.5),
        "borep": bl.BOREP(
            decaying(0.05 * scale, 1.0, 60.0),
            0.5,
            0.5,
            inner_steps=4,
            update_period=2,
            radius=1.0,
            initial=bl.EpochSGD.plain(steps=5, rate=0.5),
        ),
        "soba": bl.SOBA(decaying(0.1 * scale), 0.4, 0.4),
        "saba": bl.SABA(0.05 * scale, 0.2, 0.2),
        "srba": bl.SRBA(0.05 * scale, 0.2, 0.2, period=6),
        "masoba": bl.MASOBA(decaying(0.1 * scale), 0.4, 0.4, 0.5),
        "ba": bl.BA(step, 0.5, inner_steps=12),
        "bsa": bl.BSA(decaying(0.05 * scale), bl.inverse_power(0.6, 0.1), 8, 0.5, inner_steps=12),
        "ttsa": bl.TTSA(decaying(0.05 * scale), 0.4, 8, 0.5),
        "alset": bl.ALSET(decaying(0.05 * scale), 0.4, 2, 8, 0.5),
        "amigo": bl.AmIGO(step, 0.4, 0.4, 3, 3),
        "stable": bl.STABLE(decaying(0.1 * scale), 0.4, 0.5, strong_convexity=0.5),
        "svrb": bl.SVRB(decaying(0.1 * scale), 0.4, 0.5, strong_convexity=0.5),
        "mrbo": bl.MRBO(decaying(0.1 * scale), 0.4, 8, 0.5, 0.5, 0.7),
        "vrbo": bl.VRBO(decaying(0.1 * scale), 0.4, 3, 8, 0.5, period=4, period_batch_size=24),
        "f2sa": bl.F2SA(decaying(0.03 * scale), 0.015, 0.4, multiplier=25.0, inner_steps=3),
        "bome": bl.BOME(decaying(0.05 * scale), decaying(0.05 * scale), 0.4),
        "pzobo": bl.PZOBO(decaying(0.1 * scale), 0.5, 6, directions=4),
        "hoag": bl.HOAG(step, 0.5, strong_convexity=1.0),
        "maml": bl.MAML(step, 0.5, 12),
        "reverse": bl.reverse(step, 0.5, 12, truncation=8),
        "aid-fp": bl.aid_fp(step, 0.5, 6, 12),
        "aid-cg": bl.aid_cg(step, 0.5, 6, 3),
    }


def source_of(name):
    return bl.Blocks if name.startswith("saba") else bl.Rows


def make_problem(size=8, source=bl.Rows):
    data = None if size is None else source(np.float32(NOISE))
    return bl.Problem(bl.Level(upper_loss, data, size), bl.Level(lower_loss, data, size))


class Always(eqx.Module):
    """Episodes that draw one and the same problem."""

    problem: bl.Problem

    def __call__(self, key):
        return self.problem


def for_solver(solver, problem):
    """The problem, as MAML wants it."""
    inside = getattr(solver, "solver", solver)
    return bl.Episodes(Always(problem), y_start) if isinstance(inside, bl.MAML) else problem


def y_start(x):
    """Where MAML's loops begin: in float32, as y is in all of these tests."""
    z = 0.1 * jnp.asarray(x["x"][0], jnp.float32)
    return {"a": {"deep": z}, "b": jnp.zeros((), jnp.float32)}


def start(dtype=np.float32):
    x = {"x": (np.zeros(3, dtype),)}
    return x, {"a": {"deep": np.zeros(3, dtype)}, "b": np.zeros((), dtype)}


def run(solver, problem, steps=40, **options):
    return bl.solve(for_solver(solver, problem), solver, *start(), steps=steps, key=jax.random.key(7), **options)


@pytest.fixture(scope="module")
def problems():
    return {source: make_problem(source=source) for source in (bl.Rows, bl.Blocks)}


@pytest.fixture
def problem(name, problems):
    return problems[source_of(name)]


def test_the_list_holds_every_solver():
    assert set(make_solvers()) == set(SOLVERS)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("size", [8, None], ids=["noise", "deterministic"])
def test_reaches_the_closed_form_solution(name, size):
    """On nested pytrees; deterministic levels have no data at all."""
    solution = run(make_solvers()[name], make_problem(size, source_of(name)), steps=3000)
    tolerance = 0.05 if size else 0.02
    np.testing.assert_allclose(solution.x["x"][0], X_STAR, atol=tolerance)
    np.testing.assert_allclose(solution.y["a"]["deep"], solution.x["x"][0] / CURVATURE, atol=tolerance)
    assert solution.result == bl.RESULTS.successful


@pytest.mark.parametrize("name", SOLVERS)
def test_float32_stays_float32(name, problem):
    """With x64 on and hyperparameters in float64, the iterates and every state of them keep their dtype."""
    with jax.enable_x64(True):
        x, y = start(np.float32)
        solver = make_solvers()[name]
        solution = bl.solve(for_solver(solver, problem), solver, x, y, steps=3, key=jax.random.key(0))
    floats = list(jax.tree.leaves(eqx.filter(solution.state, eqx.is_inexact_array)))
    assert {leaf.dtype for leaf in floats} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", SOLVERS)
def test_mixed_precision(name, problem):
    """x and y may differ in dtype, each keeps its own."""
    with jax.enable_x64(True):
        (x, _), (_, y) = start(np.float64), start(np.float32)
        solver = make_solvers()[name]
        solution = bl.solve(for_solver(solver, problem), solver, x, y, steps=2, key=jax.random.key(0))
    assert solution.x["x"][0].dtype == np.float64
    assert {leaf.dtype for leaf in jax.tree.leaves(solution.y)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", SOLVERS)
def test_no_key_is_used_twice(name, problem):
    x, y = jax.tree.map(jnp.asarray, start())
    solver, key = make_solvers()[name], jax.random.key(0)
    with jax.debug_key_reuse(True):
        drawn = for_solver(solver, problem).draw(key)
        state, _ = jax.jit(lambda x, y, key: solver.init(drawn, x, y, key=key))(x, y, key)
        jax.jit(lambda state, key: solver.step(drawn, state, 0, key=key)[0])(state, jax.random.key(1))


@pytest.mark.parametrize("name", SOLVERS)
def test_changed_floats_compile_nothing(name, problem, compiled):
    run(make_solvers(1.0)[name], problem)
    compiled.clear()
    run(make_solvers(0.9)[name], problem)
    assert not compiled
    other = make_problem(6, source_of(name))
    run(make_solvers(0.9)[name], other)
    assert compiled  # the counter counts


@pytest.mark.parametrize("name", SOLVERS)
def test_a_run_depends_on_its_key_alone(name, problem):
    """Bit for bit the same whatever the chunk size, and when continued; another key gives another run."""
    solver = make_solvers()[name]
    whole = run(solver, problem, steps=40)
    identical(whole.state, run(solver, problem, steps=40, every=7).state)
    part = run(solver, problem, steps=13, every=5)
    continued = bl.solve(for_solver(solver, problem), solver, part, steps=27)
    identical(whole.state, continued.state)
    assert {k: whole.stats[k] for k in "FGHJ"} == {k: continued.stats[k] for k in "FGHJ"}
    assert continued.history["step"].tolist() == [0, 5, 10, 13, 40]
    other = bl.solve(for_solver(solver, problem), solver, *start(), steps=40, key=jax.random.key(8))
    # HOAG draws nothing, and in SRBA's differences this problem's noise, which does not depend on x and y, cancels
    assert np.array_equal(whole.x["x"][0], other.x["x"][0]) == (name in ("hoag", "srba"))


@pytest.mark.parametrize("name", SOLVERS)
def test_vmap_over_settings_equals_the_loop(name, problem):
    scales = jnp.array([0.5, 1.0, 1.5])
    x, y = jax.tree.map(jnp.asarray, start())
    key = jax.random.key(7)

    def final(scale):
        solver = make_solvers(scale)[name]
        whole = for_solver(solver, problem)
        state, _ = bl.initial_state(solver, whole, x, y, key)
        return bl.advance(solver, whole, state, key, 0, 20)[0].x["x"][0]

    together = jax.jit(jax.vmap(final))(scales)
    one = jax.jit(final)
    np.testing.assert_allclose(together, [one(scale) for scale in scales], rtol=2e-5, atol=1e-6)
    assert not np.allclose(together[0], together[1], rtol=1e-3)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_program_holds_no_data(name):
    def lowered(rows, loss=lower_loss):
        data = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
        source = source_of(name)
        solver, (x, y) = make_solvers()[name], jax.tree.map(jnp.asarray, start())
        problem = bl.Problem(bl.Level(upper_loss, source(data), 8), bl.Level(loss, source(data), 8))
        problem = for_solver(solver, problem)
        state, _ = bl.initial_state(solver, problem, x, y, jax.random.key(0))
        return len(eqx.filter_jit(bl.advance).lower(solver, problem, state, jax.random.key(0), 0, 3).as_text())

    assert abs(lowered(200_000) - lowered(100_000)) < 1000
    constant = np.random.default_rng(0).normal(size=(100_000, 3)).astype(np.float32)

    def closing_over(x, y, batch):
        return lower_loss(x, y, batch) * (1 + jnp.mean(jnp.asarray(constant)))

    assert lowered(104, closing_over) > 1_000_000  # the measure sees data where they are


UPPER_ROWS = 36  # of the lower level: 48


class Probe:
    """Counts, while a compiled program runs, the samples of every oracle whose result is used."""

    def __init__(self, monkeypatch):
        self.counts = dict.fromkeys("FGHJ", 0)
        self.depth = 0
        kinds = {
            "gradient_x": "own", "gradient_y": "own", "hessian_product": "H",
            "cross_product": "J", "upper_gradients": ("", "F"), "lower_products": ("G", "H", "J"),
            "dense_hessian": ("H dense", ""),
        }  # fmt: skip
        for name, kind in kinds.items():
            monkeypatch.setattr(oracles, name, self.wrap(getattr(oracles, name), kind))

    def wrap(self, oracle, kinds):
        def counted(level, *args):
            self.depth += 1
            out = oracle(level, *args)
            self.depth -= 1
            if self.depth:
                return out  # called by another oracle, which counts
            size = args[-1].size
            if kinds == "own":
                return self.count(out, "F" if level.length == UPPER_ROWS else "G", size)
            if isinstance(kinds, str):
                return self.count(out, kinds, size)
            return tuple(self.count(part, kind, size) if kind else part for part, kind in zip(out, kinds, strict=True))

        return counted

    def count(self, tree, kind, size):
        if kind == "H dense":
            kind, size = "H", len(tree) * size

        # a pure callback on the result runs once for each use, and goes away with a result that is not used
        def note(value):
            self.counts[kind] += size
            return value

        leaves, structure = jax.tree.flatten(tree)
        at = next(i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating))
        leaf = leaves[at]
        leaves[at] = jax.pure_callback(
            note, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), leaf, vmap_method="sequential"
        )
        return jax.tree.unflatten(structure, leaves)


EXTRA = {
    "stocbio sizes": lambda: bl.StocBiO(0.1, 0.4, 3, 3, 0.5, hessian_batch_sizes=(20, 10, 5), cross_batch_size=6),
    "aid increasing": lambda: bl.AIDBiO(0.1, 0.4, lambda k: k + 1, bl.ConjugateGradient(10, tolerance=1e-2)),
    "aid neumann": lambda: bl.AIDBiO(0.1, 0.4, 2, bl.Neumann(3, 0.5)),
    "aid random neumann": lambda: bl.AIDBiO(0.1, 0.4, 2, bl.RandomNeumann(5, 0.5)),
    "aid fixed point": lambda: bl.AIDBiO(0.1, 0.4, 2, bl.FixedPoint(4, 0.5)),
    "soba adam": lambda: bl.SOBA(bl.Rule(optax.adam, 0.01), 0.4, 0.4),
    "saba from zero": lambda: bl.SABA(0.05, 0.2, 0.2, full_pass=False),
    "srba bounded": lambda: bl.SRBA(0.05, 0.2, 0.2, period=4, radius=0.1),
    "pzobo cold": lambda: bl.PZOBO(0.05, 0.4, 2, directions=1, warm_start=False),
    "vrbo all rows": lambda: bl.VRBO(0.1, 0.4, 2, 3, 0.5, period=4),
    "ba warm": lambda: bl.BA(0.1, 0.4, adjoint=bl.ConjugateGradient(4), warm_start=True),
    "bsa growing": lambda: bl.BSA(0.1, 0.4, lambda k: k + 1, 0.5),
    "aid finite difference": lambda: bl.AIDBiO(0.1, 0.4, 2, bl.FiniteDifference(0.5)),
    "aid nystrom": lambda: bl.AIDBiO(0.1, 0.4, 2, bl.Nystrom(4, 0.01)),
    "stable bounded": lambda: bl.STABLE(0.1, 0.4, 0.5, strong_convexity=0.5, cross_bound=0.1),
}


@pytest.mark.parametrize("size", [8, None], ids=["batches", "all rows"])
@pytest.mark.parametrize("name", [*SOLVERS, *EXTRA])
def test_the_cost_is_what_a_probe_counts(name, size, monkeypatch):
    # losses of this test's own, so that no program compiled without the probe is found
    data, source = np.float32(NOISE), source_of(name)

    def curved(x, y, batch):  # H and J of a quadratic are constant, and the compiler would take them out of the loop
        return lower_loss(x, y, batch) + 1e-3 * jnp.mean(batch**2) * jnp.sum(x["x"][0] * y["a"]["deep"] ** 4)

    upper = bl.Level(lambda x, y, batch: upper_loss(x, y, batch), source(data[:UPPER_ROWS]), size and 6)
    lower = bl.Level(curved, source(data), size)
    solver = EXTRA[name]() if name in EXTRA else make_solvers()[name]
    probe = Probe(monkeypatch)
    problem = for_solver(solver, bl.Problem(upper, lower))
    solution = bl.solve(problem, solver, *start(), steps=9, key=jax.random.key(3), signs=False)  # the look is no step
    jax.block_until_ready(solution.state)
    assert {kind: solution.stats[kind] for kind in "FGHJ"} == probe.counts
    gradients_alone = ("f2sa", "bome", "pzobo", "pzobo cold", "aid finite difference")
    assert min(probe.counts[kind] for kind in ("FG" if name in gradients_alone else "FGHJ")) > 0


def test_inner_steps_of_k_below_zero_are_none():
    solution = run(bl.AIDBiO(0.1, 0.4, lambda k: k - 2), make_problem(), steps=4)
    assert solution.stats["G"] == 8  # none, none, none, one batch
    for wrong in (lambda k: k / 2, lambda k: jnp.array([3])):
        with pytest.raises(TypeError, match="inner_steps: the function of k"):
            bl.AIDBiO(0.1, 0.4, wrong)
