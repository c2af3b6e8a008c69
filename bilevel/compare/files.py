"""The files of a comparison, or of a single run."""

import pathlib
from typing import Any

import equinox as eqx
import jax
import numpy as np

from bilevel._output.files import environment, make_directory, write_csv, write_json
from bilevel.compare.figures import curves
from bilevel.compare.page import report
from bilevel.compare.records import RULE, Comparison, Run, spread, statistics
from bilevel.compare.references import CEILING
from bilevel.run._solution import Solution


def write(comparison: Comparison, out: str | pathlib.Path) -> pathlib.Path:
    """Write `results.csv` (one line per solver, seed and history row), `summary.json`, `curves.png`, `report.html`,
    and, if settings were suggested, `suggestions.txt`."""
    out = make_directory(out)
    write_csv(
        out / "results.csv",
        [{"solver": run.solver, "seed": run.seed, **row} for run in comparison.runs for row in run.rows],
    )
    write_json(out / "summary.json", summary(comparison))
    if comparison.suggestions:
        text = "\n\n".join(f"{name}: {found}" for name, found in comparison.suggestions.items())
        (out / "suggestions.txt").write_text(text + "\n", encoding="utf-8")
    curves(comparison).savefig(out / "curves.png", dpi=150)
    (out / "report.html").write_text(report(comparison), encoding="utf-8")
    return out


def write_run(
    out: str | pathlib.Path, run: Run, solution: Solution, *, task: str, arguments: dict[str, Any], solver: Any
) -> pathlib.Path:
    """Write a single run's `history.csv`, `summary.json` and `solution.npz` (the leaves of x and y)."""
    out = make_directory(out)
    write_csv(out / "history.csv", run.rows)
    content = {"task": task, "arguments": arguments, "solver": run.solver, "settings": solver, "seed": run.seed}
    content |= {"result": run.result, "message": run.message, "stats": run.stats}
    content |= {"final": run.rows[-1] if run.rows else None, "environment": environment()}
    write_json(out / "summary.json", content)
    leaves = jax.tree_util.tree_leaves_with_path({"x": solution.x, "y": solution.y})
    arrays: dict[str, Any] = {
        ".".join(map(_part, path)): np.asarray(leaf) for path, leaf in leaves if eqx.is_array(leaf)
    }
    np.savez(out / "solution.npz", **arrays)
    return out


def _part(key: Any) -> str:
    """One step of a leaf's path, such as x.layers.0.weight."""
    return next(str(getattr(key, name)) for name in ("key", "name", "idx") if hasattr(key, name))


def summary(comparison: Comparison) -> dict[str, Any]:
    """The content of `summary.json`."""
    references = {
        name: {
            "attainable": name != CEILING,
            "score": spread(scores.values()),
            "per_seed": {str(seed): score for seed, score in scores.items()},
        }
        for name, scores in comparison.references.items()
    }
    fields = ("solver", "seed", "result", "message", "stats")
    return {
        "task": comparison.task,
        "arguments": comparison.arguments,
        "score": comparison.score,
        "seeds": comparison.seeds,
        "budget": comparison.budget,
        "interrupted": comparison.interrupted,
        "rule": RULE,
        "settings": comparison.solvers,
        "suggested": {
            name: {"reasons": [[setting, str(value), why] for setting, value, why in found.reasons]}
            | {"samples": found.samples}
            for name, found in comparison.suggestions.items()
        },
        "left_out": comparison.left_out,
        "solvers": {name: statistics(comparison, name) for name in comparison.solvers},
        "references": references,
        "trials": {name: sum(trials.values()) / len(trials) for name, trials in comparison.trials.items()},
        "best_reference": comparison.best_reference,
        "environment": environment(),
        "runs": [{field: getattr(run, field) for field in fields} for run in comparison.runs],
    }
