"""The figures of the example pages, from what the examples return.

python docs/build_figures.py
"""

import runpy
import shutil
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]


def run(name, *arguments):
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["main"](*arguments)


def panel(xlabel, ylabel):
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure, name):
    figure.savefig(ROOT / "docs" / "examples" / f"{name}.png", dpi=130)


def clean_a_table():
    with tempfile.TemporaryDirectory() as folder:
        run("clean_a_table", folder)
        shutil.copy(Path(folder) / "doubtful.png", ROOT / "docs" / "examples" / "clean_a_table.png")


def ten_thousand_penalties():
    with tempfile.TemporaryDirectory() as folder:
        run("ten_thousand_penalties", folder)
        shutil.copy(Path(folder) / "penalties.png", ROOT / "docs" / "examples" / "ten_thousand_penalties.png")


def data_mixture():
    with tempfile.TemporaryDirectory() as folder:
        run("data_mixture", 200, 0, folder)
        shutil.copy(Path(folder) / "weights.png", ROOT / "docs" / "examples" / "data_mixture.png")


def few_shot():
    accuracy = run("few_shot")
    figure, axes = panel("outer steps", "accuracy on new scripts")
    axes.plot(np.arange(len(accuracy)) * 25, accuracy, marker="o")
    axes.axhline(0.2, color="#666666", linestyle=":")
    axes.text(0, 0.21, "chance", color="#444444")
    save(figure, "few_shot")


def own_outer_loop():
    figure, axes = panel("steps of Adam on ten penalties", "validation loss")
    axes.plot(run("own_outer_loop"))
    save(figure, "own_outer_loop")


def own_network():
    figure, axes = panel("rows, the most doubtful first", "share of wrong labels among them")
    rankings = run("own_network")
    for (name, wrong), line in zip(rankings.items(), ("-", "--"), strict=True):
        axes.plot(np.cumsum(wrong) / np.arange(1, len(wrong) + 1), line, label=name)
    axes.axhline(float(np.mean(next(iter(rankings.values())))), color="#666666", linestyle=":", label="any order")
    axes.set_ylim(0.5, 1.02)
    axes.legend(frameon=False)
    save(figure, "own_network")


if __name__ == "__main__":
    for build in (clean_a_table, data_mixture, ten_thousand_penalties, few_shot, own_outer_loop, own_network):
        build()
