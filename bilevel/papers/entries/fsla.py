"""Li, Gu & Huang, "A Fully Single Loop Algorithm for Bilevel Optimization without Hessian Inverse", AAAI 2022."""

from typing import Any

from bilevel.hypergradients.adjoint import ConjugateGradient, Neumann
from bilevel.papers.checks import Above, Diverges, Exceeds, Near, Slope
from bilevel.papers.claims import Claim
from bilevel.papers.entry import Curve, Entry, Panel, Setup, smaller
from bilevel.papers.fsla_figure1 import ESTIMATORS, POWERS
from bilevel.solvers.aid import AIDBiO
from bilevel.solvers.fsla import FSLA
from bilevel.solvers.itd import ITDBiO
from bilevel.solvers.recursive import RecursiveMomentum
from bilevel.steps import inverse_power

PAPER = "FSLA (AAAI 2022)"
PROVISIONAL = "Our reading of the figure"


# Figure 1: the error of estimators

DESCENT = ESTIMATORS
SEQUENCES = tuple(f"a = {a:g}" for a in POWERS)


def _estimators(rows: int, iterations: int, sequence: int) -> tuple[Curve, ...]:
    arguments = {"rows": rows, "iterations": iterations, "sequence_iterations": sequence}
    return tuple(Curve(label, "estimation", arguments, None) for label in (*DESCENT, *SEQUENCES))


FIG1 = Entry(
    id="fsla-fig1",
    paper=PAPER,
    where="Fig. 1, section 6.1",
    title="Squared error of hypergradient estimates on a quadratic",
    kind="estimators",
    sizes={
        "smoke": Setup(_estimators(100, 20, 20), steps=20, seeds=2),
        "laptop": Setup(_estimators(10_000, 500, 10_000), steps=500, about="the paper's, on 5 seeds"),
        "paper": Setup(_estimators(10_000, 500, 10_000), steps=500, seeds=10, about="the paper's, on 10 seeds"),
    },
    panels=(
        Panel("step", "relative error", log_y=True, curves=DESCENT, title="along gradient descent"),
        Panel("step", "relative error", log_x=True, log_y=True, curves=SEQUENCES, title="Neumann along y* + ỹ/kᵃ"),
    ),
    claims=(
        Claim(
            PROVISIONAL,
            "FSLA's single-loop estimate ends as close as the Neumann series, back-propagation and conjugate "
            "gradient do (within a factor of 10 of each one's squared error), x held.",
            tuple(Near("log10 relative error", "FSLA", other, within=1.0) for other in ("NS", "BP", "CG")),
        ),
        Claim(
            PROVISIONAL,
            "The Neumann estimate's error is of the order of that of y: its square falls like k^(−2a) along y* + ỹ/kᵃ "
            "(slopes within 0.1 of −2a).",
            tuple(
                check
                for a, label in zip(POWERS, SEQUENCES, strict=True)
                for check in (
                    Slope("relative error", label, "step", start=100, below=-2 * a + 0.1),
                    Slope("relative error", label, "step", start=100, above=-2 * a - 0.1),
                )
            ),
        ),
    ),
    settings="The paper's: dimension 5, 10⁴ rows, noise of variance 0.1, β = 2e-5 on sums, which is 0.2 on our "
    "means. Float64.",
    not_judged="The first claim's bound, a factor of 10 in the squared error, is in no text. The paper (section 6.1) "
    "says that all four estimates converge, that FSLA takes a bit more iterations, and that it takes less running "
    "time, with O(1) products for each K where the others take O(K). Time and products were not measured. The second "
    "claim, the rate of Corollary 3.1, waits for the same runs.",
)


# Figures 2 to 6: hyper-cleaning with a convolutional network

DELTA, C_TAU, C_BETA, C_ETA = 1000.0, 1e-3, 1e-4, 9e-4


def fsla(delta: float = DELTA, c_tau: float = C_TAU, c_beta: float = C_BETA, c_eta: float = C_ETA) -> FSLA:
    return FSLA.from_paper(delta, c_tau, c_beta, c_eta)


def _rivals(loops: tuple[tuple[int, int], ...]) -> dict[str, RecursiveMomentum]:
    """BP-T, NS-T-K and CG-T-K with FSLA's schedules and its outer momentum; a warm start only if T = 1."""
    upper, lower, weight = (inverse_power(DELTA * c, 0.5) for c in (1.0, C_TAU, C_ETA))
    found: dict[str, RecursiveMomentum] = {}
    for T, K in loops:
        warm, cg = T == 1, ConjugateGradient(K, indefinite=True)
        inside = {
            f"BP-{T}": ITDBiO(upper, lower, T, warm_start=warm),
            f"NS-{T}-{K}": AIDBiO(upper, lower, T, Neumann(K, 0.1), warm_start=warm, adjoint_warm_start=False),
            f"CG-{T}-{K}": AIDBiO(upper, lower, T, cg, warm_start=warm, adjoint_warm_start=False),
        }
        found |= {name: RecursiveMomentum(solver, weight) for name, solver in inside.items()}
    return found


LAPTOP = {
    "train": 1000, "trusted": 1000, "corruption": 0.8, "model": "cnn", "batch_size": 128, "regularization": 0.0,
    "test": 1000, "model_settings": {"filters": 4, "pool": 2},
}  # fmt: skip
FULL = LAPTOP | {"train": 5000, "trusted": 5000, "batch_size": 256, "test": 10_000, "model_settings": {"filters": 64}}
TINY = {
    "cleaning": {
        "dataset": "digits", "train": 64, "trusted": 32, "test": 50, "batch_size": 16,
        "model_settings": {"filters": 2, "layers": 1},
    }
}  # fmt: skip
SETS = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "qmnist": "QMNIST"}
SMALL = "fewer rows and steps, smaller images, 4 filters"
SETTINGS = (
    "The paper's: 80 % redrawn, batches of 256, δ = 1000, c_τ = 1e-3, c_β = 1e-4, c_η = 9e-4; the others with the same "
    "steps and the same recursive outer momentum, NS with step 0.1, a warm start only where T = 1. Laptop: 1,000 "
    "training and 1,000 trusted rows for 5,000 each, batches of 128, images pooled to 14 × 14, 4 filters (the paper "
    "gives no width), 1,000 test rows. The lower level is a whole network without a regularizer, as in the paper: it "
    "is not strongly convex."
)


def _comparison(
    common: dict[str, Any], names: tuple[str, ...], loops: tuple[tuple[int, int], ...]
) -> tuple[Curve, ...]:
    solvers = {"FSLA": fsla(), **_rivals(loops)}
    return tuple(
        Curve(f"{SETS[name]}: {label}", "cleaning", common | {"dataset": name}, solver)
        for name in names
        for label, solver in solvers.items()
    )


LOOPS = ((1, 5), (5, 5))
RIVALS = ("BP-1", "NS-1-5", "CG-1-5", "BP-5", "NS-5-5", "CG-5-5")
FIG2_SETUP = Setup(_comparison(LAPTOP, ("mnist", "fashion-mnist"), LOOPS), steps=60, rows=6, about=SMALL)
FIG2 = Entry(
    id="fsla-fig2",
    paper=PAPER,
    where="Fig. 2 to 4",
    title="Hyper-cleaning with a CNN against time",
    sizes={
        "laptop": FIG2_SETUP,
        "smoke": smaller(FIG2_SETUP, TINY, steps=2),
        "paper": Setup(_comparison(FULL, tuple(SETS), LOOPS), steps=2000, seeds=10, rows=40, about="the paper's"),
    },
    panels=tuple(
        Panel(
            "seconds", "upper loss", title=SETS[name], strip=f"{SETS[name]}: ",
            curves=tuple(f"{SETS[name]}: {label}" for label in ("FSLA", *RIVALS)),
        )
        for name in ("mnist", "fashion-mnist")
    ),
    claims=tuple(
        Claim(PROVISIONAL,
            f"{SETS[name]}: at equal running time FSLA's validation loss is below that of BP, NS and CG.",
            tuple(
                Above("upper loss", f"{SETS[name]}: {label}", f"{SETS[name]}: FSLA", "seconds") for label in RIVALS
            ),
        )
        for name in ("mnist", "fashion-mnist")
    ),
    settings=SETTINGS + " QMNIST, which cannot be had here, is in the paper's size alone; T = 1 and 5, K = 5.",
    not_judged="Conjugate gradient broke off at its first step in every run, and runs that took no step were counted "
    "for the claim. The paper's conjugate gradient goes on and is its best baseline (Fig. 3 and 4). The paper's other "
    "axis, the number of hyper-iterations, was not judged.",
)  # fmt: skip


def _ablation(number: int, where: str, title: str, curves: Any, claims: tuple[Claim, ...]) -> Entry:
    """`curves(common)` gives the curves on MNIST. `number` is the entry's number, not the figure's."""
    setup = Setup(curves(LAPTOP | {"dataset": "mnist"}), steps=150, rows=6, together=True, about=SMALL)
    return Entry(
        id=f"fsla-fig{number}",
        paper=PAPER,
        where=where,
        title=title,
        sizes={
            "laptop": setup,
            "smoke": smaller(setup, TINY, steps=2),
            "paper": Setup(curves(FULL | {"dataset": "mnist"}), steps=2000, seeds=10, rows=40, about="the paper's"),
        },
        panels=(Panel("step", "upper loss"), Panel("step", "test accuracy")),
        claims=claims,
        settings=SETTINGS,
    )


def _batches(common: dict[str, Any]) -> tuple[Curve, ...]:
    return tuple(
        Curve(f"batch {batch}", "cleaning", common | {"batch_size": batch}, fsla(), value=batch)
        for batch in (32, 64, 128, 256)
    )


def _deltas(common: dict[str, Any]) -> tuple[Curve, ...]:
    return tuple(
        Curve(f"δ = {delta:g}", "cleaning", common, fsla(delta), value=delta) for delta in (10.0, 100.0, 1000.0)
    )


def _betas(common: dict[str, Any]) -> tuple[Curve, ...]:
    return tuple(Curve(f"c_β = {c:g}", "cleaning", common, fsla(c_beta=c), value=c) for c in (1e-5, 5e-5, 1e-4, 5e-4))


def _others(common: dict[str, Any]) -> tuple[Curve, ...]:
    taus = [Curve(f"c_τ = {c:g}", "cleaning", common, fsla(c_tau=c), value=c) for c in (1e-4, 5e-4, 1e-3)]
    etas = [Curve(f"c_η = {c:g}", "cleaning", common, fsla(c_eta=c), value=c) for c in (1e-4, 5e-4, 9e-4)]
    return (*taus, *etas)


FIG3 = _ablation(
    3, "Fig. 5, left", "Batch size", _batches,
    (
        Claim(PROVISIONAL, "FSLA diverges at batch 32.", (Diverges("batch 32", "upper loss", rising=False),)),
        Claim(PROVISIONAL,
            "It is better at batch 256 than at 64.",
            (Exceeds("upper loss", "batch 64", "batch 256"),),
        ),
    ),
)  # fmt: skip
FIG4 = _ablation(
    4, "Fig. 5, right", "Outer step δ", _deltas,
    (
        Claim(PROVISIONAL,
            "A larger δ converges faster: 1000 ends below 100 in validation loss, and 100 below 10.",
            (Exceeds("upper loss", "δ = 100", "δ = 1000"), Exceeds("upper loss", "δ = 10", "δ = 100")),
        ),
    ),
)  # fmt: skip
FIG5 = _ablation(
    5, "Fig. 6, right", "Adjoint step c_β", _betas,
    (Claim(PROVISIONAL, "FSLA diverges at c_β = 5e-4.", (Diverges("c_β = 0.0005", "upper loss", rising=False),)),),
)  # fmt: skip
FIG6 = _ablation(
    6, "Fig. 6, left and middle", "Lower step c_τ and momentum c_η", _others,
    (
        Claim(PROVISIONAL,
            "The lower step matters: c_τ = 1e-3 ends below 1e-4 in validation loss.",
            (Exceeds("upper loss", "c_τ = 0.0001", "c_τ = 0.001"),),
        ),
        Claim(PROVISIONAL,
            "A smaller weight of the fresh sample (more momentum) does not hurt: c_η = 1e-4 ends no more than 0.05 "
            "above 9e-4.",
            (Exceeds("upper loss", "c_η = 0.0009", "c_η = 0.0001", by=-0.05),),
        ),
    ),
)  # fmt: skip

ENTRIES = (FIG1, FIG2, FIG3, FIG4, FIG5, FIG6)
