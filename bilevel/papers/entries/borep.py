"""Hao, Gong & Liu, "Bilevel Optimization under Unbounded Smoothness", ICLR 2024."""

import dataclasses
from typing import Any

from bilevel.papers.checks import Above, Correlates, Exceeds, Near
from bilevel.papers.claims import Claim
from bilevel.papers.entry import Curve, Entry, Panel, Setup, smaller
from bilevel.solvers.base import AbstractSolver
from bilevel.solvers.borep import BOREP, EpochSGD
from bilevel.solvers.f2sa import F2SA
from bilevel.solvers.maml import MAML
from bilevel.solvers.masoba import MASOBA
from bilevel.solvers.saba import SABA
from bilevel.solvers.soba import SOBA
from bilevel.solvers.stocbio import StocBiO
from bilevel.solvers.ttsa import TTSA

PAPER = "BO-REP (ICLR 2024)"
PROVISIONAL = "Our reading of the figure"
INITIAL = 50  # steps of plain SGD that refine y_0; the paper does not say how many
ORDER = 5  # of stocBiO's and TTSA's Neumann series, as in the authors' later code

SETTINGS = (
    "The paper's (lower, upper) steps: (a) BO-REP (0.001, 0.01), MAML and ANIL (0.05, 0.1), stocBiO, SOBA and SABA "
    "(0.05, 0.05), TTSA (0.1, 0.01), MA-SOBA (0.05, 0.1), F2SA (0.05, 0.05, 0.01), 10 inner steps, adjoint steps "
    "0.01; (b) upper 0.0001, lower 0.001 (BO-REP, stocBiO), 0.01 (TTSA), 0.05 (the others), 5 inner steps; (c) "
    "BO-REP and stocBiO (0.05, 0.05), TTSA (0.05, 0.01), SOBA, SABA and MA-SOBA (0.1, 0.05), 5 inner steps; adjoint "
    "steps 0.05 in (b) and (c); I = 2, N = 3, R = 0.5, β = 0.9. Not given, and chosen by rule: 50 steps of plain "
    "SGD refine y_0, Neumann series have 5 factors and the others' adjoint step, F2SA's λ grows by 0.01 per step from "
    "1. Laptop: for Amazon reviews the made-up sentences (a: eight domains, two of them held out, three a task; on "
    "the rated sentences, three real domains, no method gets off chance on the one held out) and the rated "
    "sentences (b); for Sentiment140 the rated tweets (c); networks of two layers of 24 on word vectors of 24 that "
    "are learned with them, batches of 10 per task, 64 and 64; MAML and ANIL take a fifth of the steps."
)

UNTUNED = (
    "The paper (appendix F) tunes the steps of each method by grid search. Its values, for networks of 4096 units, "
    "were taken over for networks of 24, not tuned anew. "
)
OTHER_SETTINGS = (
    UNTUNED
    + "F2SA was given 10 or 5 inner steps, which the paper gives to MAML, ANIL and stocBiO alone. In (b) and (c) "
    "the penalty on y covers word vectors, which are no part of the paper's networks."
)


def growing(t: Any) -> Any:
    """F2SA's λ."""
    return 1.0 + 0.01 * t


@dataclasses.dataclass(frozen=True)
class Rates:
    """Lower, upper and adjoint steps of a task, by method, and its inner steps."""

    borep: tuple[float, float]
    stocbio: tuple[float, float]
    ttsa: tuple[float, float]
    soba: tuple[float, float]
    masoba: tuple[float, float]
    f2sa: tuple[float, float, float]
    adjoint: float
    inner_steps: int


REPRESENTATION = Rates(
    (0.001, 0.01), (0.05, 0.05), (0.1, 0.01), (0.05, 0.05), (0.05, 0.1), (0.05, 0.05, 0.01), 0.01, 10
)
DECAY = Rates((0.001, 1e-4), (0.001, 1e-4), (0.01, 1e-4), (0.05, 1e-4), (0.05, 1e-4), (0.01, 0.01, 1e-4), 0.05, 5)
CLEANING = Rates((0.05, 0.05), (0.05, 0.05), (0.05, 0.01), (0.1, 0.05), (0.1, 0.05), (0.05, 0.05, 0.01), 0.05, 5)


def borep(rates: Rates, **changes: Any) -> BOREP:
    lower, upper = rates.borep
    return BOREP(upper, lower, rates.adjoint, initial=EpochSGD.plain(INITIAL, lower), **changes)


def methods(rates: Rates) -> dict[str, AbstractSolver]:
    """Every method of Figure 1 except MAML and ANIL."""
    adjoint = rates.adjoint
    (stocbio, upper), (ttsa, ttsa_upper) = rates.stocbio, rates.ttsa
    soba, masoba, f2sa = rates.soba, rates.masoba, rates.f2sa
    return {
        "BO-REP": borep(rates),
        "stocBiO": StocBiO(upper, stocbio, rates.inner_steps, ORDER, adjoint),
        "TTSA": TTSA(ttsa_upper, ttsa, neumann_order=ORDER, neumann_step=adjoint),
        "SOBA": SOBA(soba[1], soba[0], adjoint),
        "SABA": SABA(soba[1], soba[0], adjoint),
        "MA-SOBA": MASOBA(masoba[1], masoba[0], adjoint, average_weight=0.1),
        "F2SA": F2SA(f2sa[2], f2sa[1], f2sa[0], growing, inner_steps=rates.inner_steps),
    }


def curves(letter: str, task: str, arguments: dict[str, Any], rates: Rates) -> list[Curve]:
    """The methods on one task; SABA draws blocks."""
    return [
        Curve(f"({letter}) {name}", task, arguments | ({"source": "blocks"} if name == "SABA" else {}), solver)
        for name, solver in methods(rates).items()
    ]


def meta(arguments: dict[str, Any], steps: int | None) -> list[Curve]:
    """MAML and ANIL, which are only in (a); one of their steps takes as long as twenty of SOBA's."""
    test = {"test_steps": 10, "test_step": 0.05}
    return [
        Curve("(a) ANIL", "representation", arguments | test | {"learned_start": True}, MAML(0.1, 0.05, 10), steps),
        Curve("(a) MAML", "representation", arguments | test | {"adapt": "network"}, MAML(0.1, 0.05, 10), steps),
    ]


SHARED = {"dataset": "made-up", "domains_per_task": 3, "held_out": 2, "tasks": 8, "support": 200, "query": 200}
AMAZON = {"dataset": "amazon-reviews", "domains_per_task": 3, "held_out": 3, "tasks": 20, "support": 20, "query": 20}
REVIEWS = {"dataset": "sentences", "train": 2048, "validation": 512, "test": 1000, "batch_size": 64}
MANY_REVIEWS = {"dataset": "amazon-reviews", "train": 20_000, "validation": 2000, "test": 2000, "batch_size": 64}
NETWORK = {"model_settings": {"vocabulary": 1000, "length": 20, "embedding": 24, "hidden": 24}}
TWEETS = {"dataset": "tweets", "model": "rnn", "trusted": 512, "batch_size": 64, "start_weight": 1.0}
SENTIMENT = {"dataset": "sentiment140", "model": "rnn", "trusted": 5120, "batch_size": 512, "start_weight": 1.0}
FULL_NETWORK = {"model_settings": {"vocabulary": 20_000, "length": 50, "embedding": 300, "hidden": 4096}}
TINY_NETWORK = {"model_settings": {"vocabulary": 50, "length": 6, "embedding": 4, "hidden": 4}}
TINY = {
    "representation": {
        "dataset": "made-up", "tasks": 2, "support": 4, "query": 4, "batch_size": 2, "test_tasks": 2, "test_steps": 2,
        **TINY_NETWORK,
    },
    "weight-decay": {
        "dataset": "made-up", "train": 64, "validation": 32, "test": 32, "batch_size": 16, **TINY_NETWORK,
    },
    "cleaning": {"dataset": "made-up", "train": 64, "trusted": 32, "batch_size": 16, **TINY_NETWORK},
}  # fmt: skip


def _three(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any], meta_steps: int | None = None) -> tuple[Curve, ...]:
    return (
        *curves("a", "representation", a, REPRESENTATION),
        *meta(a, meta_steps),
        *curves("b", "weight-decay", b, DECAY),
        *curves("c", "cleaning", c, CLEANING),
    )


def _tweets(corruption: float) -> dict[str, Any]:
    return TWEETS | NETWORK | {"corruption": corruption, "noise": "flipped"}


def _sentiment(corruption: float) -> dict[str, Any]:
    return SENTIMENT | FULL_NETWORK | {"corruption": corruption, "noise": "flipped"}


THREE = Setup(
    _three(SHARED | NETWORK, REVIEWS | NETWORK, _tweets(0.3), meta_steps=100), steps=500, rows=5, together=True
)
PAPER_THREE = Setup(_three(AMAZON | FULL_NETWORK, MANY_REVIEWS | FULL_NETWORK, _sentiment(0.3)), steps=8000, rows=40)
SMOKE_THREE = smaller(THREE, TINY, steps=3)
SIZES_OF_THREE = {"laptop": THREE, "smoke": SMOKE_THREE, "paper": PAPER_THREE}
TIMED_THREE = {
    "laptop": dataclasses.replace(THREE, steps=100, rows=5, together=False),
    "smoke": SMOKE_THREE,
    "paper": PAPER_THREE,
}
NAMES = {
    letter: tuple(curve.label for curve in THREE.curves if curve.label.startswith(f"({letter})")) for letter in "abc"
}
TITLES = {"a": "(a) representation", "b": "(b) one λ for an RNN", "c": "(c) cleaning, 30 % flipped"}


def _panels(axis: str, metric: str) -> tuple[Panel, ...]:
    return tuple(
        Panel(axis, metric, curves=NAMES[letter], title=TITLES[letter], strip=f"({letter}) ") for letter in "abc"
    )


def _rivals(letter: str) -> list[str]:
    return [name for name in NAMES[letter] if not name.endswith("BO-REP")]


def _three_entry(
    number: int,
    title: str,
    axis: str,
    metric: str,
    sentence: str,
    checks: Any,
    sizes: dict[str, Setup] = SIZES_OF_THREE,
) -> Entry:
    return Entry(
        id=f"borep-fig{number}",
        paper=PAPER,
        where=f"Fig. {number}",
        title=title,
        sizes=sizes,
        panels=_panels(axis, metric),
        claims=tuple(
            Claim(
                PROVISIONAL,
                sentence.format(TITLES[letter]),
                tuple(checks(f"({letter}) BO-REP", other) for other in _rivals(letter)),
            )
            for letter in "abc"
        ),
        settings=SETTINGS,
        not_judged=OTHER_SETTINGS,
    )


FIG1 = _three_entry(
    1, "Upper loss on three tasks", "step", "upper loss",
    "{}: BO-REP lowers the upper loss faster than every baseline.",
    lambda ours, other: Above("upper loss", other, ours, "step"),
)  # fmt: skip
FIG2 = _three_entry(
    2, "Test accuracy on three tasks", "step", "test accuracy",
    "{}: BO-REP ends with a higher test accuracy than every baseline.",
    lambda ours, other: Exceeds("test accuracy", ours, other),
)  # fmt: skip
FIG6 = _three_entry(
    6, "Upper loss against time", "seconds", "upper loss",
    "{}: at equal running time BO-REP's upper loss is lower than every baseline's.",
    lambda ours, other: Above("upper loss", other, ours, "seconds"), TIMED_THREE,
)  # fmt: skip

LESS_NOISE = Setup(tuple(curves("c", "cleaning", _tweets(0.1), CLEANING)), steps=500, rows=5, together=True)

FIG3 = Entry(
    id="borep-fig3",
    paper=PAPER,
    where="Fig. 3",
    title="Cleaning with 10 % of the labels flipped",
    sizes={
        "laptop": LESS_NOISE,
        "smoke": smaller(LESS_NOISE, TINY, steps=3),
        "paper": Setup(tuple(curves("c", "cleaning", _sentiment(0.1), CLEANING)), steps=8000, rows=40),
    },
    panels=(Panel("step", "upper loss"), Panel("step", "test accuracy")),
    claims=(
        Claim(
            PROVISIONAL,
            "BO-REP ends with a higher test accuracy than every baseline.",
            tuple(Exceeds("test accuracy", "(c) BO-REP", other) for other in _rivals("c")),
        ),
    ),
    settings=SETTINGS,
    not_judged=OTHER_SETTINGS,
)

SMOOTHNESS = Setup(
    (
        Curve("BO-REP", "representation", SHARED | NETWORK | {"tasks": 4}, borep(REPRESENTATION)),
    ),
    steps=200, rows=50,
)  # fmt: skip

FIG4 = Entry(
    id="borep-fig4",
    paper=PAPER,
    where="Fig. 4 (appendix G)",
    title="Relaxed smoothness along a run",
    kind="smoothness",
    sizes={
        "laptop": SMOOTHNESS,
        "smoke": smaller(SMOOTHNESS, TINY, steps=4),
        "paper": dataclasses.replace(
            SMOOTHNESS,
            curves=(Curve("BO-REP", "representation", AMAZON | FULL_NETWORK, borep(REPRESENTATION)),),
            steps=8000, rows=400,
        ),
    },
    panels=(Panel("gradient norm", "smoothness", log_x=True, log_y=True),),
    claims=(
        Claim(PROVISIONAL,
            "The local smoothness of Φ grows with the norm of its gradient.",
            (Correlates("gradient norm", "smoothness", "BO-REP"),),
        ),
    ),
    settings=SETTINGS + " Four tasks; a point every four steps; the gradient is exact (Newton's method for y*).",
    not_judged="The paper (appendix G) shows the local smoothness of f in x and in y against the norms of its two "
    "partial gradients (Assumption 1). What was measured is the smoothness of Φ, another function.",
)  # fmt: skip


# Figures 7 and 8, Table 3: ablations


def _ablation(letter: str, task: str, arguments: dict[str, Any], rates: Rates) -> list[Curve]:
    periods = [
        Curve(f"({letter}) I = {period}", task, arguments, borep(rates, update_period=period), value=period)
        for period in (2, 4, 8, 16, 32)
    ]
    lengths = [
        Curve(f"({letter}) N = {steps}", task, arguments, borep(rates, inner_steps=steps), value=steps)
        for steps in (1, 3, 5, 10)
    ]
    return [*periods, *lengths]


def _long(letter: str, task: str, arguments: dict[str, Any], rates: Rates) -> list[Curve]:
    return [Curve(f"({letter}) I = 12, N = 16", task, arguments, borep(rates, update_period=12, inner_steps=16))]


def _fig8(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]) -> tuple[Curve, ...]:
    return (
        *_ablation("b", "weight-decay", b, DECAY),
        *_long("a", "representation", a, REPRESENTATION),
        *_long("b", "weight-decay", b, DECAY),
        *_long("c", "cleaning", c, CLEANING),
        Curve("(a) I = 2, N = 3", "representation", a, borep(REPRESENTATION)),
        Curve("(c) I = 2, N = 3", "cleaning", c, borep(CLEANING)),
    )


def _of(letter: str, parameter: str) -> tuple[str, ...]:
    values = (2, 4, 8, 16, 32) if parameter == "I" else (1, 3, 5, 10)
    return tuple(f"({letter}) {parameter} = {value}" for value in values)


def _ablation_claims(letter: str) -> tuple[Claim, ...]:
    return (
        Claim(
            PROVISIONAL,
            "I from 2 to 8 costs little (at most 3 points of test accuracy).",
            (Near("test accuracy", f"({letter}) I = 2", f"({letter}) I = 8", within=0.03),),
        ),
        Claim(
            PROVISIONAL,
            "I of 16 and more is clearly worse than 2 (by more than 1 point).",
            (Exceeds("test accuracy", f"({letter}) I = 2", f"({letter}) I = 32", by=0.01),),
        ),
        Claim(
            PROVISIONAL,
            "N of 5 or more is best: better than 1.",
            (Exceeds("test accuracy", f"({letter}) N = 5", f"({letter}) N = 1"),),
        ),
    )


FIG7_SETUP = Setup(
    tuple(_ablation("a", "representation", SHARED | NETWORK, REPRESENTATION)), steps=500, rows=5, together=True
)
FIG7 = Entry(
    id="borep-fig7",
    paper=PAPER,
    where="Fig. 7",
    title="Update period I and inner steps N: representation",
    sizes={
        "laptop": FIG7_SETUP,
        "smoke": smaller(FIG7_SETUP, TINY, steps=3),
        "paper": Setup(
            tuple(_ablation("a", "representation", AMAZON | FULL_NETWORK, REPRESENTATION)), steps=8000, rows=40
        ),
    },
    panels=(
        Panel("step", "upper loss", curves=_of("a", "I"), title="I"),
        Panel("step", "upper loss", curves=_of("a", "N"), title="N"),
        Panel("value", "test accuracy", curves=_of("a", "I"), log_x=True, title="update period I"),
    ),
    claims=_ablation_claims("a"),
    settings=SETTINGS,
    not_judged=UNTUNED + "“I of 16 and more” was checked at 32 alone.",
)

FIG8_SETUP = Setup(_fig8(SHARED | NETWORK, REVIEWS | NETWORK, _tweets(0.3)), steps=500, rows=5, together=True)
FIG8 = Entry(
    id="borep-fig8",
    paper=PAPER,
    where="Fig. 8",
    title="I and N: regularization, and I = 12, N = 16 on all three tasks",
    sizes={
        "laptop": FIG8_SETUP,
        "smoke": smaller(FIG8_SETUP, TINY, steps=3),
        "paper": Setup(_fig8(AMAZON | FULL_NETWORK, MANY_REVIEWS | FULL_NETWORK, _sentiment(0.3)), steps=8000, rows=40),
    },
    panels=(
        Panel("step", "upper loss", curves=_of("b", "I"), title="(b) I"),
        Panel("step", "upper loss", curves=_of("b", "N"), title="(b) N"),
    ),
    claims=_ablation_claims("b"),
    settings=SETTINGS,
    not_judged="The claims are those of Fig. 7, on a task for which no figure of the paper shows them. Fig. 8 "
    "(appendix K) compares I = 12, N = 16 with I = 2, N = 3 on three tasks, with smaller lower steps in (b) and (c), "
    "and says that the two are almost the same. No claim was made of that.",
)

PRINTED = {0.001: 0.6506, 0.005: 0.6764, 0.01: 0.7076, 0.05: 0.8122, 0.1: 0.8684, 0.5: 0.8884, 1.0: 0.8884}


def _radii(arguments: dict[str, Any]) -> tuple[Curve, ...]:
    return tuple(
        Curve(
            f"R = {radius:g}", "representation", arguments, borep(REPRESENTATION, radius=radius), value=radius,
            paper={"test accuracy": printed},
        )
        for radius, printed in PRINTED.items()
    )  # fmt: skip


TABLE3_SETUP = Setup(_radii(SHARED | NETWORK), steps=500, rows=5, together=True)
TABLE3 = Entry(
    id="borep-table3",
    paper=PAPER,
    where="Table 3",
    title="Radius R of the ball of the periodic updates",
    sizes={
        "laptop": TABLE3_SETUP,
        "smoke": smaller(TABLE3_SETUP, TINY, steps=3),
        "paper": Setup(_radii(AMAZON | FULL_NETWORK), steps=8000, rows=40),
    },
    panels=(Panel("value", "test accuracy", log_x=True, title="radius R"), Panel("step", "upper loss")),
    claims=(
        Claim(
            PROVISIONAL,
            "Test accuracy at R ≥ 0.5 exceeds that at R = 0.01 by more than 10 points.",
            (Exceeds("test accuracy", "R = 0.5", "R = 0.01", by=0.1),),
        ),
        Claim(
            PROVISIONAL,
            "Beyond R = 0.5 a larger ball changes nothing (within 1 point).",
            (Near("test accuracy", "R = 0.5", "R = 1", within=0.01),),
        ),
    ),
    settings=SETTINGS,
    not_judged=UNTUNED + "With a lower step of 0.001 a larger ball never binds, and test tasks were adapted without a "
    "ball, so that R could hardly act. R = 5 was not run.",
)

ENTRIES = (FIG1, FIG2, FIG3, FIG4, FIG6, FIG7, FIG8, TABLE3)
