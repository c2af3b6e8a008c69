"""Every solver on broken problems: the table of `docs/broken_problems.md`, which `make tables` writes and a test holds
to what happens."""

import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import bilevel as bl
from bilevel.run._solution import name_of

PAGE = Path(__file__).parent / "broken_problems.md"
STEPS, ROWS, TOLERANCE = 400, 8, 0.1
CURVATURE, TARGET = np.array([1.0, 1.5, 2.0, 2.5]), np.array([1.0, -1.0, 0.5, 2.0])
HEALTHY = {
    "curvature": CURVATURE, "target": TARGET, "scale_f": 1.0, "scale_g": 1.0, "square": 1.0, "linear": 0.0,
    "uses_y": 1.0, "steps_f": 0.0, "steps_g": 0.0, "logarithm": 0.0,
}  # fmt: skip


def lower(x: Any, y: Any, rows: Any) -> Any:
    """g = s (½ Σ c_i y_i² − Σ y_i x_i), with log x in place of x or rounded x and y where a row says so."""
    p = jax.tree.map(lambda column: column[0], rows)
    x = jnp.where(p["logarithm"] > 0, jnp.log(jnp.where(p["logarithm"] > 0, x, 1.0)), x)
    x, y = (jnp.where(p["steps_g"] > 0, jnp.round(z), z) for z in (x, y))
    return p["scale_g"] * (0.5 * jnp.sum(p["curvature"] * y**2) - jnp.sum(y * x))


def upper(x: Any, y: Any, rows: Any) -> Any:
    """f = s (½‖y − target‖² + ½ a ‖x‖² + b Σ x_i), with rounded y where a row says so."""
    p = jax.tree.map(lambda column: column[0], rows)
    y = jnp.where(p["steps_f"] > 0, jnp.round(y), y)
    of_y = p["uses_y"] * 0.5 * jnp.sum((y - p["target"]) ** 2)
    return p["scale_f"] * (of_y + 0.5 * p["square"] * jnp.sum(x**2) + p["linear"] * jnp.sum(x))


class Clip(eqx.Module):
    """The projection onto a box."""

    least: jax.Array
    most: jax.Array

    def __call__(self, x: Any) -> Any:
        return jnp.clip(x, self.least, self.most)


class Case(NamedTuple):
    """A problem: what differs from the healthy one, x* if there is one, factors of the settings, the start, X."""

    changes: dict[str, Any] = {}
    x_star: Any = None
    factors: dict[str, float] = {}
    start: float = 1.0
    least: float = -np.inf


X_STAR = (TARGET / CURVATURE) / (1 / CURVATURE**2 + 1)


def _of_logarithm() -> np.ndarray:
    """x* of the case whose lower level has log x, by a fine grid."""
    x = np.linspace(0.3, 10, 100_000)[:, None]
    phi = 0.5 * (np.log(x) / CURVATURE - TARGET) ** 2 + 0.5 * x**2
    return x[np.argmin(phi, axis=0), 0]


CASES = {
    "healthy": Case(x_star=X_STAR),
    "no strong convexity": Case({"curvature": np.zeros(4)}),
    "singular H": Case({"curvature": np.array([0.0, 1.5, 2.0, 2.5])}),
    "κ = 10⁸": Case({"curvature": np.array([2.5e-8, 1.5, 2.0, 2.5])}),
    "indefinite H": Case({"curvature": np.array([-0.01, 1.5, 2.0, 2.5])}),
    "lower steps above 2/L": Case(x_star=X_STAR, factors={"lower": 2.5}),
    "upper step above 2/L": Case(x_star=X_STAR, factors={"upper": 30.0}),
    "exploding series": Case(x_star=X_STAR, factors={"series": 4.0}),
    "f without y": Case({"uses_y": 0.0}, np.zeros(4)),
    "overflow": Case({"scale_f": 1e25, "scale_g": 1e25}, X_STAR),
    "zero gradient": Case({"target": np.zeros(4)}, np.zeros(4), start=0.0),
    "piecewise constant f": Case({"steps_f": 1.0}),
    "piecewise constant g": Case({"steps_g": 1.0}),
    "f unbounded below": Case({"square": 0.0, "linear": -1.0, "uses_y": 0.0}),
    "start outside X": Case({"logarithm": 1.0}, _of_logarithm(), start=-1.0, least=0.3),
}  # fmt: skip


def solvers(upper: float = 1.0, lower: float = 1.0, series: float = 1.0) -> dict[str, Any]:
    """Each solver with settings that are right on the healthy problem; the factors break them."""
    a, b, c = 0.2 * upper, 0.4 * lower, 0.3 * series
    slow = bl.inverse_power(0.1 * 20**0.5, 0.5, 20.0) if upper == 1 else 0.1 * upper
    normalized = bl.inverse_power(2.0, 1.0, 20.0) if upper == 1 else 0.1 * upper
    return {
        "itd": bl.ITDBiO(a, b, 10),
        "aid": bl.AIDBiO(a, b, 10, bl.ConjugateGradient(steps=4)),
        "stocbio": bl.StocBiO(a, b, 10, neumann_order=20, neumann_step=c),
        "sustain": bl.SUSTAIN(slow, b, 8, c, 0.5, 0.7),
        "fsla": bl.FSLA(slow, b, b, 0.5),
        "borep": bl.BOREP(normalized, b, b, inner_steps=4, radius=1.0),
        "soba": bl.SOBA(0.1 * upper, b, b),
        "saba": bl.SABA(0.05 * upper, 0.4 * lower, 0.4 * lower),
        "srba": bl.SRBA(0.1 * upper, b, b, period=4),
        "masoba": bl.MASOBA(0.1 * upper, b, b, 0.5),
        "ba": bl.BA(a, b, inner_steps=12),
        "bsa": bl.BSA(slow, b, neumann_order=8, neumann_step=c, inner_steps=12),
        "ttsa": bl.TTSA(slow, b, 8, c),
        "alset": bl.ALSET(slow, b, 2, 8, c),
        "amigo": bl.AmIGO(a, b, b, 3, 3),
        "stable": bl.STABLE(0.1 * upper, b, 0.5, strong_convexity=0.5),
        "svrb": bl.SVRB(0.1 * upper, b, 0.5, strong_convexity=0.5),
        "mrbo": bl.MRBO(0.1 * upper, b, 12, c, 0.5, 0.7),
        "vrbo": bl.VRBO(0.1 * upper, b, 3, 12, c, period=4, period_batch_size=8),
        "f2sa": bl.F2SA(0.05 * upper, 0.015 * lower, b, multiplier=25.0, inner_steps=3),
        "bome": bl.BOME(0.1 * upper, 0.1 * lower, b, inner_steps=10),
        "pzobo": bl.PZOBO(slow, b, 10),
        "hoag": bl.HOAG(a, b, strong_convexity=1.0),
        "reverse": bl.reverse(a, b, 12, truncation=8),
        "aid-fp": bl.aid_fp(a, b, 10, 12),
        "aid-cg": bl.aid_cg(a, b, 10, 4),
    }


def problem(case: Case) -> bl.Problem:
    """All cases share one program: what differs is data."""
    columns = {name: np.float32(value) for name, value in (HEALTHY | case.changes).items()}
    data = {name: np.broadcast_to(value, (ROWS, *value.shape)) for name, value in columns.items()}
    box = Clip(jnp.float32(case.least), jnp.float32(np.inf if case.least < 0 else 10.0))
    levels = (bl.Level(loss, bl.Blocks(data), ROWS // 2) for loss in (upper, lower))
    return bl.Problem(*levels, project=box)


def cell(name: str, case: Case) -> str:
    """What `solve` says: "right", what its result or warnings are called, or "wrong and successful"."""
    solver = solvers(**case.factors)[name]
    x, y = np.full(4, case.start, np.float32), np.zeros(4, np.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = bl.solve(problem(case), solver, x, y, steps=STEPS, key=jax.random.key(0), throw=False)
    result = name_of(run.result)
    if result != "successful":
        return f"`{result}`"
    named = [str(w.message).split(":")[0] for w in caught if issubclass(w.category, bl.DiagnosisWarning)]
    if named:
        return ", ".join(named)
    right = case.x_star is not None and np.abs(run.x - case.x_star).max() < TOLERANCE
    return "right" if right else f"wrong and successful: {run.x}"


def row(name: str) -> dict[str, str]:
    return {title: cell(name, case) for title, case in CASES.items()}


def lines(name: str, cells: dict[str, str]) -> str:
    return f"| `{name}` | {' | '.join(cells.values())} |"


def table() -> str:
    head = f"| solver | {' | '.join(CASES)} |\n|{'---|' * (len(CASES) + 1)}"
    return "\n".join([head, *(lines(name, row(name)) for name in solvers())])


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    pattern = re.compile(r"(<!-- broken -->\n).*?(\n<!-- end -->)", re.DOTALL)
    PAGE.write_text(pattern.sub(lambda match: match[1] + table() + match[2], text), encoding="utf-8")
