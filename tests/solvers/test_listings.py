"""Each solver against the plain NumPy transcription of its listing, on the draws that the solver made."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from listings.aid import aid
from listings.alset import alset
from listings.amigo import amigo
from listings.ba import ba
from listings.bome import bome
from listings.borep import borep, epoch_sgd_constants
from listings.bsa import bsa
from listings.draws import Draws, Everything
from listings.f2sa import f2sa
from listings.fsla import fsla
from listings.hoag import hoag
from listings.itd import itd
from listings.masoba import masoba
from listings.mrbo import mrbo
from listings.problem import NumpyCleaning, NumpyProblem
from listings.pzobo import pzobo
from listings.reverse import aid_cg, aid_fp, reverse
from listings.saba import saba
from listings.soba import soba
from listings.srba import srba
from listings.stable import stable
from listings.stocbio import stocbio
from listings.sustain import sustain
from listings.svrb import svrb
from listings.ttsa import ttsa
from listings.vrbo import vrbo
from solvers.recording import Log, RecordingBlocks, RecordingRows, package_problem

import bilevel as bl
from bilevel.solvers import pzobo as pzobo_module

STEPS = 7
UPPER, LOWER = 12, 9  # batch sizes, different so that a swap shows
BOREP = dict(eta=0.1, beta=0.9, nu=0.2, gamma=0.3, I=2, N=3, R=0.5)
EPOCHS = dict(lengths=(3, 2), rates=[0.3, 0.2], radii=[0.4, 0.1])


def power(scale, exponent, offset=1.0):
    """The same schedule for the package and, as a plain function of t, for the listing."""
    return bl.inverse_power(scale, exponent, offset), lambda t: scale * (offset + t) ** -exponent


(ALPHA, alpha), (BETA, beta), (GAMMA, gamma) = power(0.3, 0.5), power(0.4, 1 / 3), power(0.5, 0.25)
(ETA_F, eta_f), (ETA_G, eta_g) = power(2.5, 2 / 3), power(0.7, 0.5)  # the first exceeds 1 until t = 2


@dataclasses.dataclass
class Case:
    """A solver, its listing with the same settings, and the sizes of its draws."""

    solver: Callable[[], bl.AbstractSolver]
    listing: Callable[..., list[dict[str, Any]]]
    settings: dict[str, Any]
    names: dict[str, str]  # state field -> name in the listing's record
    special_sizes: tuple[int, ...] = ()  # sizes other than the levels'
    draws_none: bool = False  # all rows, whatever the batch size
    source: type = RecordingRows


def later(schedule):
    """FSLA's listing indexes τ, β and η by k + 1; the package's schedules see k."""
    return lambda k: schedule(k - 1)


CASES = {
    "soba": Case(
        lambda: bl.SOBA(ALPHA, BETA, GAMMA), soba, dict(gamma=alpha, rho=beta, rho_v=gamma), dict(x="x", y="y", v="v")
    ),
    "itd": Case(lambda: bl.ITDBiO(ALPHA, 0.4, 5), itd, dict(beta=alpha, alpha=0.4, D=5), dict(x="x", y="y")),
    "itd cold": Case(
        lambda: bl.ITDBiO(ALPHA, 0.4, 5, warm_start=False),
        itd,
        dict(beta=alpha, alpha=0.4, D=5, warm_start=False),
        dict(x="x", y="y"),
    ),
    "aid": Case(
        lambda: bl.AIDBiO(ALPHA, 0.4, 4, bl.ConjugateGradient(steps=3)),
        aid,
        dict(beta=alpha, alpha=0.4, D=lambda k: 4, N=3),
        dict(x="x", y="y", v="v"),
    ),
    "aid increasing cold": Case(
        lambda: bl.AIDBiO(ALPHA, 0.4, lambda k: k // 2 + 1, bl.ConjugateGradient(steps=2), False, False),
        aid,
        dict(beta=alpha, alpha=0.4, D=lambda k: k // 2 + 1, N=2, warm_start=False),
        dict(x="x", y="y", v="v"),
    ),
    "stocbio": Case(
        lambda: bl.StocBiO(ALPHA, 0.4, 3, neumann_order=4, neumann_step=0.3),
        stocbio,
        dict(beta=alpha, alpha=0.4, D=3, Q=4, eta=0.3),
        dict(x="x", y="y"),
    ),
    "stocbio sizes": Case(
        lambda: bl.StocBiO(
            ALPHA, 0.4, 2, 3, 0.3, hessian_batch_sizes=bl.neumann_batch_sizes(5, 3, 0.3, 0.5), cross_batch_size=6
        ),
        stocbio,
        dict(beta=alpha, alpha=0.4, D=2, Q=3, eta=0.3),
        dict(x="x", y="y"),
        special_sizes=(6, 15, 13, 11),
    ),
    "sustain": Case(
        lambda: bl.SUSTAIN(ALPHA, BETA, 4, 0.4, ETA_F, ETA_G),
        sustain,
        dict(alpha=alpha, beta=beta, eta_f=eta_f, eta_g=eta_g, K=4, L=2.5),
        dict(x="x", y="y", hf="hf", hg="hg"),
    ),
    "sustain adam": Case(
        lambda: bl.SUSTAIN(bl.Rule(optax.adam, 0.05), BETA, 4, 0.4, 0.6, 0.7),
        sustain,
        dict(alpha=lambda t: 0.05, beta=beta, eta_f=lambda t: 0.6, eta_g=lambda t: 0.7, K=4, L=2.5, upper="adam"),
        dict(x="x", y="y", hf="hf", hg="hg"),
    ),
    "sustain from_paper": Case(
        lambda: bl.SUSTAIN.from_paper(
            offset=8.0, c_beta=0.9, c_upper=2.0, c_lower=1.5, neumann_order=3, neumann_step=0.4
        ),
        sustain,
        dict(
            alpha=lambda t: (8 + t) ** (-1 / 3),
            beta=lambda t: 0.9 * (8 + t) ** (-1 / 3),
            eta_f=lambda t: 2.0 * (8 + t - 1) ** (-2 / 3),  # η_{t+1} = c α_t²
            eta_g=lambda t: 1.5 * (8 + t - 1) ** (-2 / 3),
            K=3,
            L=2.5,
        ),
        dict(x="x", y="y", hf="hf", hg="hg"),
    ),
    "fsla": Case(
        lambda: bl.FSLA(ALPHA, BETA, GAMMA, ETA_G),
        fsla,
        dict(alpha=alpha, tau=later(beta), beta=later(gamma), eta=later(eta_g)),
        dict(x="x", y="y", v="v", d="d"),
    ),
    "fsla from_paper": Case(
        lambda: bl.FSLA.from_paper(delta=0.4, c_tau=0.9, c_beta=0.8, c_eta=1.1),
        fsla,
        dict(
            alpha=lambda k: 0.4 / np.sqrt(k + 1),
            tau=lambda k: 0.9 * 0.4 / np.sqrt(k),
            beta=lambda k: 0.8 * 0.4 / np.sqrt(k),
            eta=lambda k: 1.1 * 0.4 / np.sqrt(k),
        ),
        dict(x="x", y="y", v="v", d="d"),
    ),
    "borep": Case(
        lambda: bl.BOREP(0.2, 0.3, 0.25, momentum=0.8, update_period=3, inner_steps=2, radius=0.2),
        borep,
        dict(eta=0.2, beta=0.8, nu=0.25, gamma=0.3, I=3, N=2, R=0.2),
        dict(x="x", y="y", v="z", m="m"),
    ),
    "borep epochs": Case(
        lambda: bl.BOREP(0.1, 0.3, 0.2, initial=bl.EpochSGD(**EPOCHS)),
        borep,
        BOREP | dict(T=EPOCHS["lengths"], alphas=EPOCHS["rates"], radii=EPOCHS["radii"]),
        dict(x="x", y="y", v="z", m="m"),
    ),
    "borep plain": Case(
        lambda: bl.BOREP(0.1, 0.3, 0.2, initial=bl.EpochSGD.plain(steps=4, rate=0.25)),
        borep,
        BOREP | dict(T=(4,), alphas=(0.25,), plain=True),
        dict(x="x", y="y", v="z", m="m"),
    ),
    "ba": Case(
        lambda: bl.BA(ALPHA, BETA, inner_steps=lambda k: k // 2 + 1),
        ba,
        dict(alpha=alpha, beta=beta, t_k=lambda k: k // 2 + 1),
        dict(x="x", y="y"),
    ),
    "ba default warm": Case(
        lambda: bl.BA(ALPHA, 0.4, warm_start=True),
        ba,
        dict(alpha=alpha, beta=lambda t: 0.4, t_k=lambda k: int(np.ceil((k + 1) ** 0.25 / 2)), warm_start=True),
        dict(x="x", y="y"),
    ),
    "bsa": Case(
        lambda: bl.BSA(ALPHA, BETA, neumann_order=lambda k: k // 3 + 2, neumann_step=0.4),
        bsa,
        dict(alpha=alpha, beta=beta, t_k=lambda k: int(np.ceil((k + 1) ** 0.5)), order=lambda k: k // 3 + 2, eta=0.4),
        dict(x="x", y="y"),
    ),
    "bsa warm": Case(
        lambda: bl.BSA(ALPHA, 0.4, neumann_order=4, neumann_step=0.4, inner_steps=2, warm_start=True),
        bsa,
        dict(alpha=alpha, beta=lambda t: 0.4, t_k=lambda k: 2, order=lambda k: 4, eta=0.4, warm_start=True),
        dict(x="x", y="y"),
    ),
    "ttsa": Case(
        lambda: bl.TTSA(ALPHA, BETA, neumann_order=lambda k: k // 2 + 2, neumann_step=0.4),
        ttsa,
        dict(alpha=alpha, beta=beta, order=lambda k: k // 2 + 2, eta=0.4),
        dict(x="x", y="y"),
    ),
    "ttsa from_paper": Case(
        lambda: bl.TTSA.from_paper(c_alpha=1.5, c_beta=1.2, k_alpha=6.0, k_beta=4.0, neumann_order=4, neumann_step=0.4),
        ttsa,
        dict(alpha=lambda k: 1.5 / (k + 6), beta=lambda k: 1.2 / (k + 4) ** (2 / 3), order=lambda k: 4, eta=0.4),
        dict(x="x", y="y"),
    ),
    "alset": Case(
        lambda: bl.ALSET(ALPHA, BETA, inner_steps=3, neumann_order=4, neumann_step=0.4),
        alset,
        dict(alpha=alpha, beta=beta, T=3, N=4, eta=0.4),
        dict(x="x", y="y"),
    ),
    "amigo": Case(
        lambda: bl.AmIGO(ALPHA, BETA, GAMMA, inner_steps=3, adjoint_steps=2),
        amigo,
        dict(gamma=alpha, alpha=beta, beta=gamma, T=3, N=2),
        dict(x="x", y="y", v="v"),
    ),
    "stable": Case(
        lambda: bl.STABLE(ALPHA, BETA, ETA_G, strong_convexity=0.6, cross_bound=0.02),
        stable,
        dict(alpha=alpha, beta=beta, tau=eta_g, mu=0.6, C=0.02),
        dict(x="x", y="y", Hxy="Hxy", Hyy="Hyy"),
    ),
    "stable unbounded": Case(
        lambda: bl.STABLE(ALPHA, BETA, ETA_F, strong_convexity=0.1),
        stable,
        dict(alpha=alpha, beta=beta, tau=eta_f, mu=0.1),
        dict(x="x", y="y", Hxy="Hxy", Hyy="Hyy"),
    ),
    "svrb": Case(
        lambda: bl.SVRB(ALPHA, BETA, ETA_G, strong_convexity=0.6),
        svrb,
        dict(alpha=alpha, beta=beta, a=eta_g, mu=0.6),
        dict(x="x", y="y", u="u", w="w", V="V", M="M", s="s"),
    ),
    "mrbo": Case(
        lambda: bl.MRBO(ALPHA, BETA, 3, 0.4, ETA_F, ETA_G),
        mrbo,
        dict(gx=alpha, gy=beta, alpha=eta_f, beta=eta_g, Q=3, eta=0.4),
        dict(x="x", y="y", d="d", s="s"),
    ),
    "mrbo from_paper": Case(
        lambda: bl.MRBO.from_paper(
            delta=1.3, offset=7.0, c_upper=0.6, c_lower=0.8, c_1=1.1, c_2=0.9, neumann_order=2, neumann_step=0.4
        ),
        mrbo,
        dict(
            gx=lambda k: 0.6 * 1.3 / (7 + k) ** (1 / 3),
            gy=lambda k: 0.8 * 1.3 / (7 + k) ** (1 / 3),
            alpha=lambda k: 1.1 * (1.3 / (7 + k - 1) ** (1 / 3)) ** 2,  # α_{k+1} = c_1 η_k²
            beta=lambda k: 0.9 * (1.3 / (7 + k - 1) ** (1 / 3)) ** 2,
            Q=2,
            eta=0.4,
        ),
        dict(x="x", y="y", d="d", s="s"),
    ),
    "vrbo": Case(
        lambda: bl.VRBO(ALPHA, BETA, 2, 3, 0.4, period=3, period_batch_size=40),
        vrbo,
        dict(alpha=alpha, beta=beta, q=3, m1=2, Q=3, eta=0.4),
        dict(x="x", y="y", d="d", s="s"),
        special_sizes=(40,),
    ),
    "saba": Case(
        lambda: bl.SABA(ALPHA, BETA, GAMMA),
        saba,
        dict(gamma=alpha, rho=beta, rho_v=gamma, sizes=(UPPER, LOWER)),
        dict(x="x", y="y", v="v"),
        source=RecordingBlocks,
    ),
    "saba from zero": Case(
        lambda: bl.SABA(ALPHA, BETA, GAMMA, full_pass=False),
        saba,
        dict(gamma=alpha, rho=beta, rho_v=gamma, sizes=(UPPER, LOWER), full_pass=False),
        dict(x="x", y="y", v="v"),
        source=RecordingBlocks,
    ),
    "srba": Case(
        lambda: bl.SRBA(ALPHA, BETA, GAMMA, period=3),
        srba,
        dict(gamma=alpha, rho=beta, rho_v=gamma, q=3),
        dict(x="x", y="y", v="v"),
    ),
    "srba bounded": Case(
        lambda: bl.SRBA(ALPHA, BETA, GAMMA, period=4, radius=0.3),
        srba,
        dict(gamma=alpha, rho=beta, rho_v=gamma, q=4, R=0.3),
        dict(x="x", y="y", v="v"),
    ),
    "masoba": Case(
        lambda: bl.MASOBA(ALPHA, BETA, GAMMA, ETA_G),
        masoba,
        dict(alpha=alpha, beta=beta, gamma=gamma, theta=eta_g),
        dict(x="x", y="y", v="v", h="h"),
    ),
    "f2sa": Case(
        lambda: bl.F2SA(ALPHA, 0.1, BETA, multiplier=lambda k: 2.0 + k, inner_steps=3),
        f2sa,
        dict(xi_alpha=alpha, alpha=lambda k: 0.1, gamma=beta, lam=lambda k: 2.0 + k, T=3),
        dict(x="x", y="z", penalized="y"),
    ),
    "f2sa common samples": Case(
        lambda: bl.F2SA(ALPHA, 0.1, BETA, multiplier=lambda k: 2.0 + k, inner_steps=3, common_samples=True),
        f2sa,
        dict(xi_alpha=alpha, alpha=lambda k: 0.1, gamma=beta, lam=lambda k: 2.0 + k, T=3, common=True),
        dict(x="x", y="z", penalized="y"),
    ),
    "f2sa from_paper": Case(
        lambda: bl.F2SA.from_paper(c_alpha=0.2, c_gamma=0.8, ratio=0.7, offset=2.0),
        f2sa,
        dict(
            alpha=lambda k: 0.2 * (k + 2) ** (-5 / 7),
            gamma=lambda k: 0.8 * (k + 2) ** (-4 / 7),
            lam=lambda k: 0.8 * (k + 2) ** (-4 / 7) / (2 * 0.2 * (k + 2) ** (-5 / 7)),
            xi_alpha=lambda k: 0.7 * 0.2 * (k + 2) ** (-5 / 7),
            T=1,
        ),
        dict(x="x", y="z", penalized="y"),
    ),
    "bome": Case(
        lambda: bl.BOME(ALPHA, BETA, 0.4, inner_steps=3, barrier=ETA_G),
        bome,
        dict(xi_x=alpha, xi_y=beta, alpha=lambda k: 0.4, eta=eta_g, T=3),
        dict(x="x", y="y"),
    ),
    "pzobo": Case(
        lambda: bl.PZOBO(ALPHA, 0.4, 3, directions=4, smoothing=0.2),
        pzobo,
        dict(beta=alpha, alpha=0.4, N=3, Q=4, mu=0.2),
        dict(x="x", y="y"),
    ),
    "pzobo cold": Case(
        lambda: bl.PZOBO(ALPHA, 0.4, 3, directions=2, warm_start=False),
        pzobo,
        dict(beta=alpha, alpha=0.4, N=3, Q=2, mu=0.1, warm_start=False),
        dict(x="x", y="y"),
    ),
    "hoag": Case(
        lambda: bl.HOAG(ALPHA, 0.4, strong_convexity=0.5, inner_steps=15, adjoint_steps=3),
        hoag,
        dict(beta=alpha, alpha=0.4, mu=0.5, epsilon=lambda k: 0.1 * 0.9**k, max_inner=15, max_cg=3),
        dict(x="x", y="y", v="v"),
        draws_none=True,
    ),
    "hoag capped": Case(
        lambda: bl.HOAG(ALPHA, 0.4, 0.5, lambda k: 0.01 / (k + 1) ** 2, inner_steps=2, adjoint_steps=2),
        hoag,
        dict(beta=alpha, alpha=0.4, mu=0.5, epsilon=lambda k: 0.01 / (k + 1) ** 2, max_inner=2, max_cg=2),
        dict(x="x", y="y", v="v"),
        draws_none=True,
    ),
    "reverse": Case(
        lambda: bl.reverse(ALPHA, 0.4, 5, truncation=3),
        reverse,
        dict(beta=alpha, alpha=0.4, D=5, K=3),
        dict(x="x", y="y"),
    ),
    "aid-fp": Case(
        lambda: bl.aid_fp(ALPHA, 0.4, 4, 3), aid_fp, dict(beta=alpha, alpha=0.4, D=4, K=3), dict(x="x", y="y")
    ),
    "aid-cg": Case(
        lambda: bl.aid_cg(ALPHA, 0.4, 4, 2), aid_cg, dict(beta=alpha, alpha=0.4, D=4, K=2), dict(x="x", y="y")
    ),
}
RANDOM_LENGTH = ("sustain", "bsa", "ttsa", "alset")  # how many factors they draw is not known without draws
DIRECTIONS = "pzobo"  # nor are its random vectors


def trajectory(solver, problem, x, y, log=None, costs=None):
    """The solver's states, step by step, outside of any compiled program; what each step cost goes to `costs`."""
    key = jax.random.key(3)
    states, costs = [], [] if costs is None else costs
    with jax.disable_jit():
        if log is not None:
            log.begin()
        state, _ = solver.init(problem, x, y, key=jax.random.fold_in(key, 2**31))
        for t in range(STEPS):
            if log is not None:
                log.begin()
            state, cost = solver.step(problem, state, jnp.asarray(t), key=jax.random.fold_in(key, t))
            states.append(state)
            costs.append(cost)
    return states


def check_equal(states, records, names):
    assert len(states) == len(records) == STEPS
    for t, (state, record) in enumerate(zip(states, records, strict=True)):
        for field, name in names.items():
            np.testing.assert_allclose(
                np.asarray(getattr(state, field)), record[name], rtol=0, atol=1e-10, err_msg=f"{field} after step {t}"
            )


def start(numpy_problem, per_row):
    rng = np.random.default_rng(5)
    x = rng.normal(size=numpy_problem.n if per_row else numpy_problem.p)
    return x, rng.normal(size=numpy_problem.a.shape[1])


@pytest.fixture
def directions(monkeypatch):
    """A list of logs, to which PZOBO's random vectors go."""
    logs, draw = [], pzobo_module.normals

    def recorded(key, n, like):
        drawn = draw(key, n, like)
        for log in logs:
            log.add("directions", np.asarray(drawn), key)
        return drawn

    monkeypatch.setattr(pzobo_module, "normals", recorded)
    return logs


@pytest.mark.parametrize("per_row", [False, True], ids=["dense x", "x per row"])
@pytest.mark.parametrize("name", CASES)
def test_solver_is_its_listing(name, per_row, directions):
    case = CASES[name]
    blocks = 10 if case.source is RecordingBlocks else 150
    numpy_problem = NumpyProblem.random(0, n=blocks * LOWER, m=blocks * UPPER)
    numpy_problem = NumpyCleaning(numpy_problem) if per_row else numpy_problem
    x, y = start(numpy_problem, per_row)
    with jax.enable_x64(True):
        log = Log()
        directions.append(log)
        problem = package_problem(numpy_problem, per_row=per_row, sizes=(UPPER, LOWER), log=log, source=case.source)
        states = trajectory(case.solver(), problem, jnp.asarray(x), jnp.asarray(y), log)

        records = case.listing(numpy_problem, x, y, Draws(log.draws()), STEPS, **case.settings)
        check_equal(states, records, case.names)

    # no two draws coincide: each key is new (where a listing shares a sample, the solver draws it once)
    assert len(set(log.keys())) == len(log.keys())
    if case.draws_none:
        assert not log.keys()
        return
    sizes = {level: {len(i) for step in log.draws() for at, i in step if at == level} for level in ("upper", "lower")}
    assert sizes["upper"] >= {UPPER}
    assert sizes["lower"] == {LOWER, *case.special_sizes}


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith((*RANDOM_LENGTH, DIRECTIONS))])
def test_deterministic_levels_follow_the_listing(name):
    """`batch_size=None`: each oracle sees all rows; here in compiled steps."""
    case = CASES[name]
    numpy_problem = NumpyProblem.random(1)
    x, y = start(numpy_problem, per_row=False)
    with jax.enable_x64(True):
        problem = package_problem(numpy_problem, per_row=False, sizes=None)
        solution = bl.solve(problem, case.solver(), x, y, steps=STEPS, key=jax.random.key(0), signs=False)
        settings = case.settings | ({"sizes": (150, 200)} if "sizes" in case.settings else {})
        records = case.listing(numpy_problem, x, y, Everything(200, 150), STEPS, **settings)
        for field, record_name in case.names.items():
            actual = np.asarray(getattr(solution.state, field))
            np.testing.assert_allclose(actual, records[-1][record_name], rtol=0, atol=1e-10, err_msg=field)


def test_pzobo_on_all_rows_follows_the_listing_along_the_vectors_it_drew(directions):
    case, numpy_problem = CASES["pzobo"], NumpyProblem.random(1)
    x, y = start(numpy_problem, per_row=False)
    with jax.enable_x64(True):
        log = Log()
        directions.append(log)
        problem = package_problem(numpy_problem, per_row=False, sizes=None)
        states = trajectory(case.solver(), problem, jnp.asarray(x), jnp.asarray(y), log)
        rows = [("lower", np.arange(200))] * 3 + [("upper", np.arange(150))]
        draws = Draws([[], *([*step, *rows] for step in log.draws()[1:])])
        check_equal(states, case.listing(numpy_problem, x, y, draws, STEPS, **case.settings), case.names)


PROJECTED = ("srba bounded", "ba", "bsa", "ttsa", "alset", "stable", "vrbo", "hoag")


@pytest.mark.parametrize("name", PROJECTED)
def test_projection_is_where_the_listing_has_it(name):
    case, numpy_problem = CASES[name], NumpyProblem.random(0)
    x, y = start(numpy_problem, per_row=False)
    with jax.enable_x64(True):
        log = Log()
        problem = package_problem(numpy_problem, per_row=False, sizes=(UPPER, LOWER), log=log)
        problem = bl.Problem(problem.upper, problem.lower, project=lambda x: 0.9 * x + 0.05)  # acts at every step
        states = trajectory(case.solver(), problem, jnp.asarray(x), jnp.asarray(y), log)
        settings = case.settings | {"project": lambda x: 0.9 * x + 0.05}
        check_equal(states, case.listing(numpy_problem, x, y, Draws(log.draws()), STEPS, **settings), case.names)


def test_sustain_full_batch_follows_the_listing_for_the_ks_it_drew():
    case = CASES["sustain"]
    numpy_problem = NumpyProblem.random(1)
    x, y = start(numpy_problem, per_row=False)
    with jax.enable_x64(True):
        problem = package_problem(numpy_problem, per_row=False, sizes=None)
        costs = []
        states = trajectory(case.solver(), problem, jnp.asarray(x), jnp.asarray(y), costs=costs)
        ks = [cost.total().to_dict()["H"] // (2 * 200) for cost in costs]
        assert set(ks) <= set(range(4))
        assert len(set(ks)) > 1
        records = case.listing(numpy_problem, x, y, Everything(200, 150), STEPS, ks=ks, **case.settings)
        check_equal(states, records, case.names)


@pytest.mark.parametrize(("noise", "a", "c"), [("both", 5 / 7, 4 / 7), ("upper", 3 / 5, 2 / 5), ("none", 1 / 3, 0)])
def test_f2sa_schedules(noise, a, c):
    solver = bl.F2SA.from_paper(c_alpha=0.2, c_gamma=0.8, ratio=0.7, offset=2.0, noise=noise)
    for k in (0, 5):
        alpha, gamma = 0.2 * (k + 2) ** -a, 0.8 * (k + 2) ** -c
        found = (
            solver.penalized_step.rate(k),
            solver.lower_step.rate(k),
            solver.upper_step.rate(k),
            solver.multiplier(k),
        )
        np.testing.assert_allclose(found, (alpha, gamma, 0.7 * alpha, gamma / (2 * alpha)), rtol=1e-12)


def test_default_lengths_of_the_lower_loops():
    """t_k = ⌈(k+1)^{1/4}/2⌉ for BA and ⌈(k+1)^{1/2}⌉ for BSA."""
    ba, bsa = bl.BA(0.1, 0.1).inner_steps, bl.BSA(0.1, 0.1, 1, 0.1).inner_steps
    assert [int(ba(k)) for k in (0, 15, 16, 255, 256)] == [1, 1, 2, 2, 3]
    assert [int(bsa(k)) for k in (0, 3, 4, 8, 9)] == [1, 2, 3, 3, 4]


@pytest.mark.parametrize("sigma", [0.0, 0.05, 2.0])
def test_epoch_sgd_constants(sigma):
    constants = dict(mu=0.7, L=3.0, sigma=sigma)
    stage = bl.EpochSGD.from_constants(**constants, initial_gap=5.0, accuracy=0.3, failure=0.05)
    epochs, lengths, rates, radii = epoch_sgd_constants(**constants, V0=5.0, epsilon=0.3, delta=0.05)
    assert len(stage.lengths) == epochs
    assert stage.lengths == tuple(lengths)
    np.testing.assert_allclose(stage.rates, rates, rtol=1e-14)
    np.testing.assert_allclose(stage.radii, radii, rtol=1e-14)
