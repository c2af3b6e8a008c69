"""What the pages say of every solver, from the solvers: `make tables` writes it, and a test holds the pages to it."""

import re
from pathlib import Path

from bilevel.solvers.presets import Preset
from bilevel.solvers.registry import SOLVERS

ROOT = Path(__file__).parents[1]


def solvers_table() -> str:
    """The README's table."""
    lines = ["| name | class | lower level | adjoint | upper direction | paper |", "|---|---|---|---|---|---|"]
    for name, solver in SOLVERS.items():
        about = solver.about
        assert about is not None
        source = about.source + (f" (*unverified detail: {about.unverified}*)" if about.unverified else "")
        cells = (f"`{name}`", f"`{solver.__name__}`", about.lower, about.adjoint, about.direction, source)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def episodes_table() -> str:
    """Which solvers are methods where each step has fresh tasks."""
    lines = ["| solver | on `bl.Episodes` with a `start` |", "|---|---|"]
    for solver in SOLVERS.values():
        reaches = (solver.solver if isinstance(solver, Preset) else solver).of_x is not None
        lines.append(f"| `{solver.__name__}` | {'reaches the optimum' if reaches else 'refused'} |")
    return "\n".join(lines)


def api_entries() -> str:
    """The entries of the API page."""
    return "\n\n".join(f"::: bilevel.solvers.{solver.__name__}" for solver in SOLVERS.values())


PARTS = {
    "README.md": {"solvers": solvers_table},
    "docs/which_solver.md": {"episodes": episodes_table},
    "docs/api/solvers.md": {"solvers": api_entries},
}


def written(page: str) -> str:
    """The page with its parts written anew, each between `<!-- name -->` and `<!-- end -->`."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, make in PARTS[page].items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        assert len(pattern.findall(text)) == 1, f"{page}: no part {name}"
        text = pattern.sub(lambda match, make=make: match[1] + make() + match[2], text)
    return text


if __name__ == "__main__":
    for page in PARTS:
        (ROOT / page).write_text(written(page), encoding="utf-8")
