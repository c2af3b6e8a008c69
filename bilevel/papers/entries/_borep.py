"""What BO-REP's figures share: the three tasks at each size, the methods, and the grids on which they are tuned."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from bilevel.papers.claims import Threshold
from bilevel.papers.entry import Curve, Grid, Setup, Tuning, smaller
from bilevel.solvers.borep import BOREP, EpochSGD
from bilevel.solvers.f2sa import F2SA
from bilevel.solvers.maml import MAML
from bilevel.solvers.masoba import MASOBA
from bilevel.solvers.soba import SOBA
from bilevel.solvers.stocbio import StocBiO
from bilevel.solvers.ttsa import TTSA

PAPER = "BO-REP (ICLR 2024)"
SETTINGS = (
    "Tuned, as in the paper (appendix F): the lower and the upper step of each method, on the paper's grids or the "
    "part of them that a size's budget bears; in (b) also the adjoint step, over two of the paper's five values (at "
    "laptop size it is 0.01), and an upper step of 1e-5 at the smaller sizes, which is below the paper's grid: BO-REP "
    "moves λ by its upper step each time, and at 1e-4 a small network's λ is soon so negative that g has no minimum. "
    "The paper's: adjoint steps 0.01 in (a) and 0.05 in (c); 10 inner steps of MAML, ANIL and stocBiO in (a), 5 of "
    "stocBiO in (b) and (c); I = 2, N = 3, R = 0.5, β = 0.9; F2SA's λ grows by 0.01 per step; it has one inner step, "
    "as the paper's list of double loops does not name it, and one step for both lower variables, as the paper's "
    "tuning ended. Not given, and chosen: 50 steps of plain SGD refine y_0, Neumann series have 5 factors, F2SA's λ "
    "starts at 1; the weight of the lower regularizer is 0.01 in (a), which is µ/2, and 0.001 in (c). The heads of (a) "
    "start at zero below the paper's size, where the paper has U(−1, 1). In (c) labels are flipped, as in appendix "
    "F.3; section 4.3 has a random class. Losses are compared once the best method ends at 0.65 (chance is 0.693), and "
    "accuracies once it ends at 0.6 (chance is 0.5). The training loss of the claims is the upper loss, which in (b) "
    "is on validation rows."
)

INITIAL = 50  # steps of plain SGD that refine y_0; the paper does not say how many
ORDER = 5  # of stocBiO's and TTSA's Neumann series, as in the authors' later code
OURS = "BO-REP"
META = ("ANIL", "MAML")
TASKS = {"a": "representation", "b": "weight-decay", "c": "cleaning"}
TITLES = {
    "a": "(a) hyper-representation",
    "b": "(b) hyperparameter optimization",
    "c": "(c) hyper-cleaning, 30 % flipped",
}
INNER_STEPS = {"a": 10, "b": 5, "c": 5}

TRAINED = Threshold("upper loss", most=0.65)  # ln 2 = 0.693 is chance
GENERAL = Threshold("test loss", most=0.65)  # else the method that learns fastest is the first to overfit a few domains
LEARNED = Threshold("test accuracy", least=0.6)
RULE = Tuning("test loss", highest=False, seeds=2, share=0.25)


def growing(t: Any) -> Any:
    """F2SA's λ."""
    return 1.0 + 0.01 * t


def borep(lower: float, upper: float, adjoint: float, **changes: Any) -> BOREP:
    return BOREP(upper, lower, adjoint, initial=EpochSGD.plain(INITIAL, lower), **changes)


def _stocbio(inner_steps: int) -> Callable[..., StocBiO]:
    return lambda lower, upper, adjoint: StocBiO(upper, lower, inner_steps, ORDER, adjoint)


def _ttsa(lower: float, upper: float, adjoint: float) -> TTSA:
    return TTSA(upper, lower, neumann_order=ORDER, neumann_step=adjoint)


def _soba(lower: float, upper: float, adjoint: float) -> SOBA:
    return SOBA(upper, lower, adjoint)


def _masoba(lower: float, upper: float, adjoint: float) -> MASOBA:
    return MASOBA(upper, lower, adjoint, average_weight=0.1)


def _f2sa(lower: float, upper: float) -> F2SA:
    """With one step for both lower variables, as the paper's tuning ended in all three tasks."""
    return F2SA(upper, lower, lower, growing)


def _maml(lower: float, upper: float) -> MAML:
    return MAML(upper, lower, INNER_STEPS["a"])


@dataclasses.dataclass(frozen=True)
class Values:
    """The steps to try on a task. `meta`: the same for ANIL and MAML, if not all of them."""

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    adjoint: tuple[float, ...]
    meta: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def grid(self, make: Callable[..., Any], *, meta: bool = False) -> Grid:
        """`make` on all of them; on those of the adjoint as well, if it takes one."""
        lower, upper = self.meta if meta and self.meta is not None else (self.lower, self.upper)
        values = {"lower": lower, "upper": upper}
        return Grid(make, values if make in (_f2sa, _maml) else values | {"adjoint": self.adjoint})


@dataclasses.dataclass(frozen=True)
class Size:
    """One size of the three tasks: by letter, the arguments, the outer steps and the values to try."""

    arguments: Mapping[str, dict[str, Any]]
    steps: Mapping[str, int]
    values: Mapping[str, Values]
    about: str
    rows: int = 20

    def ours(self, letter: str, **more: Any) -> Curve:
        """BO-REP, tuned."""
        return self._curve(letter, OURS, self.values[letter].grid(borep), **more)

    def variant(
        self,
        letter: str,
        label: str,
        value: float | None = None,
        *,
        slower: float = 1.0,
        arguments: Any = None,
        paper: Any = None,
        **changes: Any,
    ) -> Curve:
        """BO-REP with other settings, at the steps that were tuned for its own. `slower`: a factor on the lower one;
        `arguments`: changes of the task; `paper`: what the paper prints."""

        def make(lower: float, upper: float, adjoint: float) -> BOREP:
            return borep(slower * lower, upper, adjoint, **changes)

        grid = dataclasses.replace(self.values[letter].grid(make), of=self.ours(letter))
        return self._curve(letter, label, grid, arguments, value=value, paper=paper or {})

    def methods(self, letter: str, **changes: Any) -> list[Curve]:
        """Every method that is compared on a task."""
        makes = {OURS: borep, "stocBiO": _stocbio(INNER_STEPS[letter]), "TTSA": _ttsa, "SOBA": _soba}
        makes |= {"MA-SOBA": _masoba, "F2SA": _f2sa}
        values = self.values[letter]
        curves = [self._curve(letter, name, values.grid(make), changes) for name, make in makes.items()]
        if letter == "a":
            start = {"ANIL": {"learned_start": True}, "MAML": {"adapt": "network"}}
            curves += [
                self._curve("a", name, values.grid(_maml, meta=True), start[name] | {"head_start": 0.0})
                for name in META
            ]
        return curves

    def setup(self, *curves: Curve) -> Setup:
        return Setup(curves, rows=self.rows, tuning=RULE, about=self.about)

    def _curve(self, letter: str, name: str, grid: Grid, changes: Any = None, **more: Any) -> Curve:
        arguments = self.arguments[letter] | (changes or {})
        return Curve(f"({letter}) {name}", TASKS[letter], arguments, grid, self.steps[letter], **more)


def _network(vocabulary: int, length: int, embedding: int, hidden: Any, **more: Any) -> dict[str, Any]:
    """Word vectors learned from the training texts, frozen and no part of x or y."""
    settings = {"vocabulary": vocabulary, "length": length, "embedding": embedding, "hidden": hidden}
    return {"model_settings": settings | {"vectors": "corpus", "frozen": True} | more}


def _representation(tasks: int, test_tasks: int) -> dict[str, Any]:
    """Tasks drawn afresh, with full support and query sets of 20 rows."""
    return {
        "dataset": "amazon-reviews", "domains_per_task": 2, "held_out": 1, "support": 20, "query": 20,
        "batch_size": None, "tasks": tasks, "tasks_per_step": tasks, "fresh": True, "test_tasks": test_tasks,
    }  # fmt: skip


# 8,000 reviews; the validation rows of tuning are as many as the test rows
REVIEWS = {"dataset": "amazon-reviews", "train": 4800, "validation": 1000, "test": 1000, "batch_size": 64}


def _tweets(train: int | None, trusted: int, batch: int) -> dict[str, Any]:
    return {
        "dataset": "sentiment140-part", "model": "rnn", "noise": "flipped", "corruption": 0.3, "train": train,
        "trusted": trusted, "test": 2000, "test_fraction": 0.1, "batch_size": batch, "start_weight": 1.0,
    }  # fmt: skip


LETTERS = tuple("abc")
DATA = (
    "Four domains of Amazon reviews stand in for 25: one is held out instead of three, a task has two instead of "
    "three, and (b) has 4,800 training, 1,000 validation and 1,000 test reviews, where the paper has 20,000 to train "
    "and 2,000 to test. 100,359 tweets of Sentiment140 stand in for its 1.6 million. The inputs are word vectors "
    "learned from the training texts; the paper gives their dimension alone, and its released code has GloVe"
)
START = "Networks start in ±1/√n, with n inputs of a layer, where the paper has U(−1, 1)"


def _sized(network: dict[str, Any], tasks: tuple[dict[str, Any], ...], steps: tuple[int, ...], **more: Any) -> Size:
    arguments = {letter: network | task for letter, task in zip(LETTERS, tasks, strict=True)}
    return Size(arguments, dict(zip(LETTERS, steps, strict=True)), **more)


LAPTOP = _sized(
    _network(1000, 20, 24, 24), (_representation(4, 20), REVIEWS, _tweets(4000, 1000, 64)), (500, 600, 600),
    values={
        "a": Values((0.1, 0.5), (0.01, 0.1, 0.5), (0.01,), ((0.1,), (0.1, 0.5))),
        "b": Values((0.05, 0.1), (1e-5, 1e-4), (0.01,)),
        "c": Values((0.05, 0.1), (0.01, 0.1), (0.05,)),
    },
    rows=10,
    about=DATA + "; the first 20 words of a text, vectors of 24, two layers of 24 units; (a) 4 tasks per step for 20, "
    "500 steps; (b) batches of 64, 600 steps; (c) 4,000 training and 1,000 trusted tweets, batches of 64 for 512, 600 "
    "steps. 4 to 6 points per method, two for ANIL and MAML, of the paper's grids but for 1e-5 in (b). " + START,
)  # fmt: skip
WORKSTATION = _sized(
    _network(2000, 30, 50, 32),
    (_representation(8, 40), REVIEWS | {"nonnegative": True}, _tweets(10_000, 2000, 128)),
    (2000, 2500, 2500),
    values={
        "a": Values((0.05, 0.1, 0.5), (0.01, 0.05, 0.1, 0.5), (0.01,), ((0.05, 0.5), (0.01, 0.05, 0.1))),
        "b": Values((0.01, 0.05, 0.1), (1e-5, 1e-4), (0.001, 0.01)),
        "c": Values((0.01, 0.05, 0.1), (0.01, 0.05, 0.1), (0.05,)),
    },
    about=DATA + "; the first 30 words of a text, vectors of 50, two layers of 32 units; (a) 8 tasks per step for 20, "
    "2,000 steps for 8,000; (b) batches of 64, 2,500 steps, λ projected on λ ≥ 0, without which four runs of BO-REP in "
    "five broke off; (c) 10,000 training and 2,000 trusted tweets, batches of 128 for 512, 2,500 steps. 9 to 12 points "
    "per method, six for ANIL and MAML, of the paper's grids but for 1e-5 in (b). " + START,
)  # fmt: skip
_FROM_A, _FROM_B = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5), (1e-4, 5e-4, 0.001, 0.005, 0.01, 0.05, 0.1)
FULL = _sized(
    _network(20_000, 50, 300, 4096, uniform=1.0),
    (
        _representation(20, 100) | _network(20_000, 50, 300, (4096, 512), uniform=1.0) | {"head_start": 1.0},
        REVIEWS,
        _tweets(None, 5120, 512),
    ),
    (8000, 8000, 8000),
    values={
        "a": Values(_FROM_A, _FROM_A, (0.01,)),
        "b": Values(_FROM_B, _FROM_B, (0.01, 0.05)),
        "c": Values((0.01, 0.05, 0.1), (0.01, 0.05, 0.1), (0.05,)),
    },
    rows=40,
    about="The paper's networks, two layers of 4096 and 512 units (a) or of 4096 (b, c) that start in U(−1, 1), as the "
    "heads of (a) do; inputs of 300; 20 tasks per step, drawn afresh; batches of 64 (b) and 512 (c); 8,000 steps, "
    "which the paper prints for (a); the paper's grids. " + DATA,
)
SIZES = {"laptop": LAPTOP, "workstation": WORKSTATION, "paper": FULL}

_TINY = {"model_settings": {"vocabulary": 50, "length": 4, "embedding": 4, "hidden": 4, "layers": 1}}
TINY = {
    "representation": _TINY
    | {
        "dataset": "made-up", "tasks": 2, "tasks_per_step": 2, "support": 4, "query": 4, "test_tasks": 2,
        "test_steps": 2,
    },
    "weight-decay": _TINY | {"dataset": "made-up", "train": 64, "validation": 32, "test": 32, "batch_size": 16},
    "cleaning": _TINY | {"dataset": "made-up", "train": 64, "trusted": 32, "test": 32, "batch_size": 16},
}  # fmt: skip


def setups(curves: Callable[[Size], list[Curve]], *only: str) -> dict[str, Setup]:
    """An entry's sizes. `only`: the curves that smoke size keeps, as each of them is a program to compile."""
    made = {name: size.setup(*curves(size)) for name, size in SIZES.items()}
    return {"smoke": smaller(made["laptop"], TINY, steps=3, only=only)} | made
