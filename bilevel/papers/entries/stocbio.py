"""Ji, Yang & Liang, "Bilevel Optimization: Convergence Analysis and Enhanced Design", ICML 2021."""

from typing import Any

import jax.numpy as jnp

from bilevel.hypergradients.adjoint import ConjugateGradient
from bilevel.papers.checks import Above, Drops, Exceeds, Spreads
from bilevel.papers.claims import Claim, Threshold
from bilevel.papers.entries import _fewshot as fewshot
from bilevel.papers.entries._fewshot import adam, anil, itd, maml
from bilevel.papers.entries._stocbio_cleaning import FIG5, FIG6, PAPER
from bilevel.papers.entry import Curve, Entry, Grid, Panel, Setup, Tuning, smaller
from bilevel.solvers.aid import AIDBiO
from bilevel.solvers.hoag import HOAG
from bilevel.solvers.presets import aid_cg, aid_fp, reverse
from bilevel.solvers.stocbio import StocBiO
from bilevel.steps import Rule, as_float

# Figures 2 and 3: few-shot learning

CONSTANT, INCREASING = "AID-BiO-constant", "AID-BiO-increasing"
ACCURACIES = ("training accuracy", "test accuracy")


def quarter_power(k: Any) -> Any:
    """⌈(k + 1)^¼⌉, the order of the growing number of lower steps in Ghadimi & Wang's analysis."""
    return jnp.ceil((as_float(k) + 1) ** 0.25).astype(int)


def _aid(label: str, common: dict[str, Any], upper: Rule, inner_steps: Any) -> Curve:
    def make(lower_step: float) -> AIDBiO:
        return AIDBiO(upper, lower_step, inner_steps, ConjugateGradient(5))

    grid = Grid(make, {"lower_step": (0.1, 0.05, 0.02, 0.01)}, arguments={"test_step": "lower_step"})
    return Curve(label, "fewshot", common, grid)


def _fewshot(common: dict[str, Any], outer: float, inner_steps: int, maml_outer: float) -> tuple[Curve, ...]:
    tested = common | {"test_steps": inner_steps}
    return (
        _aid(CONSTANT, tested, adam(outer), inner_steps),
        _aid(INCREASING, tested, adam(outer), quarter_power),
        itd("ITD-BiO", common, adam(outer), inner_steps, 0.1),
        anil("ANIL", common, adam(outer), inner_steps, 0.1),
        maml("MAML", common, adam(maml_outer), 3, 0.5),
    )


def _faster(high: str, *lows: str) -> tuple[Above, ...]:
    return tuple(Above(metric, high, low, "seconds") for low in lows for metric in ACCURACIES)


STABLE = Tuning("test accuracy", seeds=1)  # runs of full length: AID-BiO diverges late
FIG2_LAPTOP = Setup(
    _fewshot(fewshot.SMALL, 0.001, 10, 0.001), seconds=120, tuning=STABLE,
    about=fewshot.LAPTOP.format("120 seconds per run"),
)  # fmt: skip
FIG2 = Entry(
    id="stocbio-fig2",
    paper=PAPER,
    where="Fig. 2",
    title="5-way 5-shot accuracy against time",
    sizes={
        "smoke": smaller(FIG2_LAPTOP, fewshot.TINY, steps=4, only=2),
        "laptop": FIG2_LAPTOP,
        "workstation": Setup(
            _fewshot(fewshot.MEDIUM, 0.001, 10, 0.001),
            seconds=600,
            tuning=STABLE,
            about=fewshot.WORKSTATION.format("600 seconds per run"),
        ),
        "paper": Setup(
            _fewshot(fewshot.FULL, 0.001, 10, 0.001),
            seconds=2000,
            seeds=10,
            rows=40,
            tuning=STABLE,
            about=fewshot.PAPER.format("2,000 seconds per run"),
        ),
    },
    panels=(Panel("seconds", "training accuracy"), Panel("seconds", "test accuracy")),
    claims=(
        Claim(
            "“AID-BiO-constant converges faster than AID-BiO-increasing in terms of both the training accuracy and "
            "test accuracy” (section 5.1).",
            "At equal running time AID-BiO with a constant number of inner steps is ahead of AID-BiO with a growing "
            "one, on training and on test tasks.",
            _faster(CONSTANT, INCREASING),
            fewshot.LEARNED,
        ),
        Claim(
            "It “achieves a better final test accuracy than ANIL and MAML” (section 5.1).",
            "AID-BiO with a constant number of inner steps ends above ANIL and MAML in test accuracy.",
            tuple(Exceeds("test accuracy", CONSTANT, other) for other in ("ANIL", "MAML")),
            fewshot.LEARNED,
        ),
        Claim(
            "“AID-BiO is slightly faster than ITD-BiO in terms of the training accuracy and test accuracy” "
            "(section 5.1).",
            "At equal running time AID-BiO with a constant number of inner steps is ahead of ITD-BiO, on training and "
            "on test tasks.",
            _faster(CONSTANT, "ITD-BiO"),
            fewshot.LEARNED,
        ),
        Claim(
            "First draft: ITD-BiO (“deterBiO”) “converges much faster … than other competing algorithms in terms of "
            "both the training accuracy and test accuracy” (its section 5.2; the others are BA, ANIL and MAML).",
            "At equal running time ITD-BiO is ahead of AID-BiO-increasing (the draft's BA), ANIL and MAML, on training "
            "and on test tasks.",
            _faster("ITD-BiO", INCREASING, "ANIL", "MAML"),
            fewshot.LEARNED,
        ),
        Claim(
            "First draft: it “further achieves a better final test accuracy than ANIL and MAML” (its section 5.2).",
            "ITD-BiO ends above ANIL and MAML in test accuracy.",
            tuple(Exceeds("test accuracy", "ITD-BiO", other) for other in ("ANIL", "MAML")),
            fewshot.LEARNED,
        ),
    ),
    settings="The first draft's, as the ICML paper's appendix is not at hand. FC100: Adam 0.001 outside, 10 inner "
    "steps of 0.1 for ITD-BiO and ANIL; MAML 3 of 0.5. (miniImageNet: Adam 0.002, MAML 0.003, 5 inner steps.) The "
    "draft has AID-BiO-increasing, as BA, with steps of 0.1 and 5 conjugate-gradient steps. At 0.1 both AID-BiO "
    "diverge here; their lower step, which is the test's as well, is tuned. Not given, and chosen: 10 inner steps of "
    "AID-BiO-constant; the growing number is ⌈(k + 1)^¼⌉, while the conjugate-gradient steps do not grow; the weight "
    "of the regularizer, 0.01; 5 query images per class; each task's head starts at zero, and its support and query "
    "images are normalized apart.",
    left_out=(
        fewshot.NO_MINI,
        "“Nearly 2 times faster in Figure 1(a)” (first draft): on miniImageNet.",
        "That AID-BiO is “more computationally and memory efficient than ITD-BiO, as verified in Figure 2” (section "
        "4.1): the figure shows accuracies against time, which are compared.",
        "“AID-BiO performs similarly to ITD-BiO in terms of the convergence rate” (section 5.1): in parentheses, and "
        "with another sense than “slightly faster”, which is checked.",
        "That it “converges more stably than ANIL when the number of inner-loop steps increases” (first draft, section "
        "5.2): said of its appendix A.3, which is stocbio-fig3.",
    ),
)


def _large_loops(ten: dict[str, Any], twenty: dict[str, Any]) -> tuple[Curve, ...]:
    """T = 10 with the settings on miniImageNet, T = 20 with those on FC100."""
    return (
        itd("ITD-BiO, T = 10", ten, adam(0.002), 10, 0.05),
        anil("ANIL, T = 10", ten, adam(0.002), 10, 0.05),
        itd("ITD-BiO, T = 20", twenty, adam(0.001), 20, 0.1),
        anil("ANIL, T = 20", twenty, adam(0.001), 20, 0.1),
    )


FIG3_LAPTOP = Setup(
    _large_loops(fewshot.SMALL, fewshot.SMALL),
    steps=1000,
    rows=25,
    about=fewshot.LAPTOP.format(f"1,000 steps{fewshot.STAND_IN} at T = 10"),
)
FIG3 = Entry(
    id="stocbio-fig3",
    paper=PAPER,
    where="Fig. 3",
    title="ITD-BiO and ANIL with many inner steps",
    sizes={
        "smoke": smaller(FIG3_LAPTOP, fewshot.TINY, steps=4, only=1),
        "laptop": FIG3_LAPTOP,
        "workstation": Setup(
            _large_loops(fewshot.MEDIUM, fewshot.MEDIUM), steps=2000, rows=25,
            about=fewshot.WORKSTATION.format(f"2,000 steps{fewshot.STAND_IN} at T = 10"),
        ),
        "paper": Setup(
            _large_loops(fewshot.FULL | {"filters": 32}, fewshot.FULL), steps=5000, seeds=10, rows=50,
            about=fewshot.PAPER.format("5,000 steps")
            + "; at T = 10, FC100 stands in for miniImageNet, with its 32 filters",
        ),
    },
    panels=tuple(
        Panel(
            "step", "test accuracy", title=f"T = {steps}", strip=f", T = {steps}",
            curves=(f"ITD-BiO, T = {steps}", f"ANIL, T = {steps}"),
        )
        for steps in (10, 20)
    ),
    claims=(
        Claim(
            "“When the number of inner-loop steps is large, i.e., T = 10 for miniImageNet and T = 20 for FC100, the "
            "bilevel optimizer ITD-BiO converges stably …” (section 5.1).",
            "ITD-BiO's test accuracy ends at most 2 points below its best, at T = 10 and at T = 20.",
            tuple(Drops("test accuracy", f"ITD-BiO, T = {steps}", less=0.02) for steps in (10, 20)),
            fewshot.LEARNED,
        ),
        Claim(
            "“… with a small variance” (section 5.1).",
            "The ends of ITD-BiO's runs lie closer together over the seeds than those of ANIL's.",
            tuple(
                Spreads("test accuracy", f"ANIL, T = {steps}", f"ITD-BiO, T = {steps}") for steps in (10, 20)
            ),
            fewshot.LEARNED,
        ),
        Claim(
            "“… whereas ANIL suffers from a sudden descent at 1500s on miniImageNet …” (section 5.1).",
            "At T = 10 ANIL's test accuracy ends more than 5 points below its best.",
            (Drops("test accuracy", "ANIL, T = 10", more=0.05),),
            fewshot.LEARNED,
            fails_at=("paper",),
        ),
        Claim(
            "“… and even diverges after 2000s on FC100” (section 5.1).",
            "At T = 20 ANIL's test accuracy ends more than 5 points below its best.",
            (Drops("test accuracy", "ANIL, T = 20", more=0.05),),
            fewshot.LEARNED,
            fails_at=("paper",),
        ),
    ),
    settings="The first draft's (its appendix A.3): 10 inner steps of 0.05 and Adam 0.002 (miniImageNet), 20 of 0.1 "
    "and Adam 0.001 (FC100), for both methods. The figure's axis is time; here it is iterations, as no claim compares "
    "the times of the two. 2 and 5 points are our measures of “stably” and of a descent.",
    left_out=(
        "Fig. 3(a), T = 10, with its own data: it is of miniImageNet, which is not to be had here.",
        "“ANIL outperforms MAML in general” (first draft, appendix A.3): said in parentheses, of no figure.",
    ),
)  # fmt: skip


# Figure 4: one penalty per feature

BATCHES = (100, 500, 1000, 2000)
FULL_BATCH = ("HOAG", "reverse", "AID-FP", "AID-CG")


LOWER_STEPS = {"lower_step": (3.0, 10.0, 30.0, 100.0)}


def _news_tuning(train: int, validation: int) -> Tuning:
    """The rows that are left for the two levels when others take the place of the test rows."""
    return Tuning(
        "test loss", highest=False, whole=True, seeds=1, share=0.5,
        changes={"train": train, "validation": validation},
    )  # fmt: skip


def _news(common: dict[str, Any], strong_convexity: float) -> tuple[Curve, ...]:
    """`lower_step` is the size of the adjoint steps, too."""
    whole = common | {"batch_size": None}

    def stochastic(lower_step: float) -> StocBiO:
        return StocBiO(100.0, lower_step, inner_steps=10, neumann_order=10, neumann_step=lower_step)

    def hoag(lower_step: float) -> HOAG:
        return HOAG(100.0, lower_step, strong_convexity=strong_convexity, inner_steps=100, adjoint_steps=20)

    def backward(lower_step: float) -> Any:
        return reverse(100.0, lower_step, inner_steps=10)

    def fixed_point(lower_step: float) -> Any:
        return aid_fp(100.0, lower_step, inner_steps=10, adjoint_steps=10)

    def conjugate(lower_step: float) -> Any:
        return aid_cg(100.0, lower_step, inner_steps=10, adjoint_steps=10)

    makers = zip(FULL_BATCH, (hoag, backward, fixed_point, conjugate), strict=True)
    return (
        *(
            Curve(
                f"stocBiO, batch {batch}", "regularization", common | {"batch_size": batch},
                Grid(stochastic, LOWER_STEPS),
            )
            for batch in BATCHES
        ),
        *(Curve(name, "regularization", whole, Grid(make, LOWER_STEPS)) for name, make in makers),
    )  # fmt: skip


SENTENCES = {"dataset": "sentences-tfidf", "train": 8000, "validation": 2000}
NEWSGROUPS = {"dataset": "newsgroups", "train": 5657, "validation": 5657}
TINY_PENALTIES = {"regularization": {"dataset": "digits", "train": 100, "validation": 100, "batch_size": 50}}
NEWS = Setup(
    _news(SENTENCES, 3.2e-5), seconds=10, tuning=_news_tuning(6000, 2000),
    about="TF-IDF of the rated sentences, six classes (domain and sign), for 20 Newsgroups, whose full-batch steps "
    "take seconds; 10 seconds per run",
)  # fmt: skip
READ = Threshold("test accuracy", least=0.5)

FIG4 = Entry(
    id="stocbio-fig4",
    paper=PAPER,
    where="Fig. 4",
    title="One L2 penalty per feature on multinomial logistic regression",
    sizes={
        "smoke": smaller(NEWS, TINY_PENALTIES, steps=4, only=2),
        "laptop": NEWS,
        "paper": Setup(
            _news(NEWSGROUPS, 7.7e-7),
            tuning=_news_tuning(3900, 3900),
            seconds=90,
            seeds=10,
            about="20 Newsgroups as in the paper, half of the published training rows for training and half for "
            "validation; 90 seconds per run, which the text at hand does not print",
        ),
    },
    panels=(
        Panel("seconds", "test loss", curves=("stocBiO, batch 1000", *FULL_BATCH), title="(a)"),
        Panel("seconds", "test accuracy", curves=("stocBiO, batch 1000", *FULL_BATCH), title="(a)"),
        Panel("seconds", "test loss", curves=(*(f"stocBiO, batch {batch}" for batch in BATCHES), "HOAG"), title="(b)"),
    ),
    claims=(
        Claim(
            "“As shown in Figure 4(a), the proposed stocBiO achieves the fastest convergence rate …” (section 6.1).",
            "At equal running time the test loss of stocBiO is below that of HOAG, reverse, AID-FP and AID-CG.",
            tuple(Above("test loss", other, "stocBiO, batch 1000", "seconds") for other in FULL_BATCH),
            READ,
            fails_at=("paper",),
        ),
        Claim(
            "“… as well as the best test accuracy among all comparison algorithms” (section 6.1).",
            "stocBiO ends above HOAG, reverse, AID-FP and AID-CG in test accuracy.",
            tuple(Exceeds("test accuracy", "stocBiO, batch 1000", other) for other in FULL_BATCH),
            READ,
        ),
        Claim(
            "“stocBiO outperforms HOAG under the batch sizes of 100, 500, 1000, 2000” (section 6.1, Fig. 4(b)).",
            "At equal running time the test loss of stocBiO is below HOAG's at each of the four batch sizes.",
            tuple(Above("test loss", "HOAG", f"stocBiO, batch {batch}", "seconds") for batch in BATCHES),
            READ,
            fails_at=("paper",),
        ),
    ),
    settings="Batch sizes are the paper's; it does not say which Fig. 4(a) shows, and 1000 was chosen. The rest is in "
    "its appendix B, which is not at hand; it is hypertorch's for this task, 10 lower steps, 10 adjoint steps, and an "
    "upper step of 100 from x = 0. HOAG, the paper's own implementation in the figure, is here the listing with "
    "gradient steps, at most 100 lower and 20 adjoint ones, told the μ of x = 0, which is 2 over the size of y. The "
    "size of the lower and adjoint steps is tuned, because hypertorch's 100 is above 2/L on these rows. The penalty "
    "has no factor ½, which the released code has, and covers the intercepts.",
    left_out=(
        "“The performance of stocBiO is not very sensitive to the batch size”: the paper has no measure of it; what it "
        "concludes it from is checked.",
        "That BSA and TTSA “converge too slowly with a large variance”: the paper does not show them.",
    ),
)

ENTRIES = (FIG2, FIG3, FIG4, FIG5, FIG6)
