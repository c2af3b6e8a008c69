"""The error of estimators in the paper of FSLA: its Figure 1."""

from bilevel.papers.checks import Exceeds, Slope, Sooner
from bilevel.papers.claims import Claim
from bilevel.papers.entry import Curve, Entry, Panel, Setup
from bilevel.papers.fsla_figure1 import ESTIMATORS, POWERS

PAPER = "FSLA (AAAI 2022)"
SLOW = ("NS", "BP", "CG")  # with O(K) products


def _estimators(rows: int, iterations: int, sequence: int) -> tuple[Curve, ...]:
    descent = (Curve(name, "estimation", {"rows": rows, "iterations": iterations}, None) for name in ESTIMATORS)
    points = (Curve(name, "estimation", {"rows": rows, "iterations": sequence}, None) for name in POWERS)
    return (*descent, *points)


FIG1 = Entry(
    id="fsla-fig1",
    paper=PAPER,
    where="Fig. 1",
    title="Squared error of hypergradient estimates on a quadratic",
    kind="estimators",
    sizes={
        "smoke": Setup(
            _estimators(100, 20, 20), steps=20, seeds=2,
            about="a few steps on few rows: it shows that the code runs, and nothing else",
        ),
        "laptop": Setup(_estimators(1000, 500, 10_000), steps=500, about="1,000 data points for 10,000"),
        "paper": Setup(
            _estimators(10_000, 500, 10_000), steps=500, seeds=10,
            about="the paper's: dimension 5 and 10,000 data points; 500 iterations, 10,000 in the right panel, and 10 "
            "seeds, which the paper does not print",
        ),
    },
    panels=(
        Panel("step", "relative error", log_y=True, curves=ESTIMATORS, title="along gradient descent"),
        Panel("products", "relative error", log_x=True, log_y=True, curves=ESTIMATORS, title="along gradient descent"),
        Panel(
            "step", "relative error", log_x=True, log_y=True, curves=tuple(POWERS), title="Neumann along y* + ỹ/kᵃ"
        ),
    ),
    claims=(
        Claim(
            "“As shown by the figure, the hyper-gradient estimation errors of all the four methods converge” (section "
            "6.1).",
            "The squared errors of FSLA, NS, BP and CG end below 1e-10 of the squared hypergradient.",
            tuple(Exceeds("digits", name, by=10.0) for name in ESTIMATORS),
        ),
        Claim(
            "“Our FSLA takes a bit more number of iterations to converge …” (section 6.1).",
            "FSLA needs more iterations than NS, BP and CG for a squared error of 1e-10, and at most 30 % more than "
            "NS.",
            (
                *(Sooner("digits", 10.0, name, "FSLA", "step") for name in SLOW),
                Sooner("digits", 10.0, "FSLA", "NS", "step", factor=1.3),
            ),
        ),
        Claim(
            "“… however, our algorithm takes less running time” (section 6.1).",
            "With an estimate made at each iteration, FSLA is sooner at a squared error of 1e-10 than NS, BP and CG.",
            tuple(Sooner("digits", 10.0, "FSLA", name, "seconds") for name in SLOW),
        ),
        Claim(
            "“Our method requires O(1) matrix-vector query for every given K, while the other methods requires O(K) "
            "queries” (section 6.1).",
            "With an estimate made at each iteration, FSLA needs fewer products with H and J than NS, BP and CG for a "
            "squared error of 1e-10.",
            tuple(Sooner("digits", 10.0, "FSLA", name, "products") for name in SLOW),
        ),
        Claim(
            "“Corollary 3.1 bounds the convergence rate of ∇_λ f_K with the rate of ω_k, which is well verified "
            "through the results shown in Figure 1” (section 6.1).",
            "Along y* + ỹ/kᵃ the squared error of the Neumann estimate falls like k^(−2a): from k = 500 on, its slope "
            "is within 0.1 of −2a for a = 2, 1, ½ and ¼.",
            tuple(
                check
                for label, a in POWERS.items()
                for check in (
                    Slope("relative error", label, "step", start=500, below=-2 * a + 0.1),
                    Slope("relative error", label, "step", start=500, above=-2 * a - 0.1),
                )
            ),
        ),
    ),
    settings="The paper's: dimension 5, noise of variance 0.1, β = 2e-5 on sums of 10⁴ squares, which is 0.2 on our "
    "means; x is fixed. In float64. Before k = 500 the Neumann series itself, with k terms, is not yet exact. The "
    "panel against products, and the bounds 1e-10 and 30 %, are ours.",
)  # fmt: skip
