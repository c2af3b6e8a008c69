"""Ten thousand penalties, one per feature, against one for all.

    python examples/ten_thousand_penalties.py

There are 500 rows, and 20 of 10,000 features matter: as with genes or spectra, there are many more measurements than
samples. One penalty that is strong enough for the other 9,980 features also shrinks these 20. With one penalty per
feature, tuned by the gradient of the held-out error, it does not. Replace X and y by your own arrays; X may be sparse.
"""

import pathlib
import tempfile

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score

from bilevel.estimators import PenalizedRidge

ROWS, FEATURES, MATTER = 500, 10_000, 20


def draw_rows(rng):
    """Rows and targets for training, and as many for testing. The features that matter come first."""
    X = rng.normal(size=(2 * ROWS, FEATURES)).astype(np.float32)
    y = X[:, :MATTER] @ rng.normal(size=MATTER) + rng.normal(size=len(X))
    return X[:ROWS], y[:ROWS], X[ROWS:], y[ROWS:]


def draw(model, path):
    """Draw the tuning, and the penalties that it found."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(model.history_["step"], model.history_["held-out loss"], marker="o", color="#0072B2")
    left.set(xlabel="steps along the hypergradient", ylabel="mean squared error of held-out rows", ylim=(0, None))
    left.set_xticks(range(0, 21, 5))
    bins = np.geomspace(model.penalties_.min(), model.penalties_.max(), 40)
    for penalties, label, color in (
        (model.penalties_[MATTER:], "features that do not matter", "#999999"),
        (model.penalties_[:MATTER], "features that matter", "#D55E00"),
    ):
        right.hist(penalties, bins, label=label, color=color)
    right.set(xscale="log", yscale="log", xlabel="penalty", ylabel="features")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main(folder=None):
    X, y, X_test, y_test = draw_rows(np.random.default_rng(0))
    one = RidgeCV(np.logspace(-2, 6, 25)).fit(X, y)
    many = PenalizedRidge(random_state=0).fit(X, y)
    scores = {name: r2_score(y_test, model.predict(X_test)) for name, model in (("one", one), ("many", many))}

    console = Console()
    console.print(f"R² on new rows with one penalty, {one.alpha_:.3g}, for all features: {scores['one']:.2f}")
    console.print(f"R² with one penalty per feature: {scores['many']:.2f}")
    least = np.argsort(many.penalties_)[:MATTER]
    console.print(f"Of the {MATTER} features with the smallest penalties, {np.sum(least < MATTER)} matter")
    path = pathlib.Path(folder or tempfile.mkdtemp(prefix="ten-thousand-penalties-")) / "penalties.png"
    draw(many, path)
    console.print(f"Drawn to {path}")
    return scores


if __name__ == "__main__":
    main()
