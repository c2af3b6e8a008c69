"""One penalty per feature against one for all: test loss and time on tables of three sizes, dense and sparse.

    BILEVEL_DATA=DIR python benchmarks/penalties.py  # measures what is not in the CSV, and writes docs/penalties.md
    python benchmarks/penalties.py --page            # only writes docs/penalties.md from the CSV

It compares PenalizedLogistic and PenalizedRidge with their defaults, the same with one common penalty (`steps=0`),
scikit-learn's LogisticRegressionCV and RidgeCV, and a finer grid of one penalty. Time is processor time of all threads,
which other work on the machine hardly changes.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: on a busy machine its threads wait for each other

import argparse
import math
import pathlib
import time
import warnings

import jax
import numpy as np
import scipy.sparse
from measurements import measure_missing, read

from bilevel import datasets
from bilevel.estimators import PenalizedLogistic, PenalizedRidge

DOCS = pathlib.Path(__file__).parents[1] / "docs"
CSV, PAGE = DOCS / "penalties.csv", DOCS / "penalties.md"
SEEDS = (0, 1, 2)
KEYS = ("set", "method", "seed")
IMAGES = 1000  # training rows of the image sets; four times as many are for the test
LOGISTIC = (
    "digits",
    "breast cancer",
    "wine",
    "breast cancer, mixed units",
    "wine, mixed units",
    "mnist",
    "fashion-mnist",
    "sentences",
    "sentences, 6 classes",
    "made-up: 1,000 features, 20 matter",
)
RIDGE = (
    "diabetes",
    "diabetes, mixed units",
    "diabetes, squares",
    "ratings",
    "made-up: 10,000 features, 20 matter",
)
OURS, COMMON, GRID = "a penalty per feature", "one penalty, ours", "grid of 25"
THEIRS = {True: "LogisticRegressionCV", False: "RidgeCV"}


def made_up(rng, features, classes):
    rows = 500
    X = rng.normal(size=(5 * rows, features)).astype(np.float32)
    scores = X[:, :20] @ rng.normal(size=20) + rng.normal(size=len(X))
    return X, (scores > 0).astype(int) if classes else scores, rows


def sentences(rng, kind):
    """TF-IDF of words that two training rows hold: (X, y, training rows), whole groups apart."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = datasets.load_text("sentences")
    order = np.argsort(rng.permutation(texts.groups.max() + 1)[texts.groups], kind="stable")
    train = round(0.7 * len(order))
    while texts.groups[order[train]] == texts.groups[order[train - 1]]:
        train += 1
    words = [texts.texts[row] for row in order]
    vectorizer = TfidfVectorizer(min_df=2, dtype=np.float32).fit(words[:train])
    targets = {
        "sentences": texts.labels,
        "sentences, 6 classes": 2 * texts.domains + texts.labels,
        "ratings": ratings(),
    }
    return vectorizer.transform(words), targets[kind][order], train


def ratings():
    """The ratings of the same sentences, in the same order."""
    from bilevel.datasets import sentences

    return np.array([row[1] for path in sentences.FILES["sentences"].need() for row in sentences._read(path)])


def load(name, seed):
    """X, y, and the number of training rows, which come first."""
    from sklearn import datasets as theirs
    from sklearn.preprocessing import PolynomialFeatures

    rng = np.random.default_rng(seed)
    if name.startswith("made-up"):
        return made_up(rng, 10_000 if name in RIDGE else 1_000, name in LOGISTIC)
    if name in ("sentences", "sentences, 6 classes", "ratings"):
        return sentences(rng, name)
    if name in ("mnist", "fashion-mnist"):
        loaded = datasets.load(name)
        rows = rng.permutation(len(loaded.labels))[: 5 * IMAGES]
        return loaded.features[rows], loaded.labels[rows], IMAGES
    loaders = {"digits": theirs.load_digits, "breast cancer": theirs.load_breast_cancer, "wine": theirs.load_wine}
    X, y = loaders.get(name.partition(",")[0], theirs.load_diabetes)(return_X_y=True)
    if name == "diabetes, squares":
        X = PolynomialFeatures(2, include_bias=False).fit_transform(X / X.std(axis=0))
    order, train = rng.permutation(len(y)), round(0.7 * len(y))
    X, y = X[order], y[order]
    if name == "digits":
        return X / 16, y, train
    if name.endswith("mixed units"):
        return X / X[:train].std(axis=0) * 10.0 ** rng.uniform(-3, 3, X.shape[1]), y, train
    return (X - X[:train].mean(axis=0)) / X[:train].std(axis=0), y, train


def methods(name, seed, sparse):
    """The estimators by name."""
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, Ridge, RidgeCV
    from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold

    if name in LOGISTIC:
        ours, folds = PenalizedLogistic, StratifiedKFold(5, shuffle=True, random_state=seed)
        cv = LogisticRegressionCV(Cs=10, cv=5, scoring="neg_log_loss")
        grid = GridSearchCV(
            LogisticRegression(max_iter=200), {"C": np.logspace(-4, 4, 25)}, cv=folds, scoring="neg_log_loss"
        )
    else:
        ours, folds = PenalizedRidge, KFold(5, shuffle=True, random_state=seed)
        alphas = np.logspace(-4, 4, 10)
        cv = RidgeCV(alphas, cv=5, scoring="neg_mean_squared_error") if sparse else RidgeCV(alphas)
        grid = GridSearchCV(Ridge(), {"alpha": np.logspace(-2, 6, 25)}, cv=folds, scoring="neg_mean_squared_error")
    return {
        OURS: ours(random_state=seed),
        COMMON: ours(random_state=seed, steps=0),
        THEIRS[name in LOGISTIC]: cv,
        GRID: grid,
    }


def test_loss(model, X, y, is_logistic):
    from sklearn.metrics import log_loss, mean_squared_error

    return log_loss(y, model.predict_proba(X)) if is_logistic else mean_squared_error(y, model.predict(X))


def timed(fit):
    start = time.process_time()
    model = fit()
    return model, time.process_time() - start


def measure(name, method, seed):
    """Measure one fit, as a row of the CSV. `first` times a first fit, with compilation, and `seconds` a second."""
    X, y, train = load(name, seed)
    estimator = methods(name, seed, scipy.sparse.issparse(X))[method]
    jax.clear_caches()
    model, first = timed(lambda: estimator.fit(X[:train], y[:train]))
    is_ours = method in (OURS, COMMON)
    seconds = timed(lambda: estimator.fit(X[:train], y[:train]))[1] if is_ours else first
    return {
        "set": name,
        "method": method,
        "seed": seed,
        "rows": train,
        "features": X.shape[1],
        "loss": float(f"{test_loss(model, X[train:], y[train:], name in LOGISTIC):.5g}"),
        "first": round(first, 2),
        "seconds": round(seconds, 2),
    }


def measure_all():
    wanted = [
        (name, method, seed)
        for seed in SEEDS
        for name in (*LOGISTIC, *RIDGE)
        for method in (OURS, COMMON, THEIRS[name in LOGISTIC], GRID)
    ]
    measure_missing(CSV, KEYS, wanted, measure)


def cells(rows, name, method):
    return [row for row in rows if row["set"] == name and row["method"] == method]


def mean(rows, column):
    return float(np.mean([float(row[column]) for row in rows]))


def losses(rows, name, method):
    return np.array([float(row["loss"]) for row in sorted(cells(rows, name, method), key=lambda row: row["seed"])])


def of_table(rows, names):
    """The Markdown table of some sets."""
    theirs = THEIRS[names is LOGISTIC]
    order = (OURS, COMMON, theirs, GRID)
    lines = ["| set | rows × features | " + " | ".join(order) + " |", "|---|---|" + "---|" * len(order)]
    for name in names:
        found = {method: losses(rows, name, method) for method in order}
        best = min(values.mean() for values in found.values())
        sizes = cells(rows, name, OURS)[0]
        shown = []
        for values in found.values():
            error = float(f"{values.std(ddof=1) / math.sqrt(len(values)):.2g}")
            text = f"{values.mean():.4g} ± {error:g}"
            shown.append(f"**{text}**" if values.mean() == best else text)
        lines.append(f"| {name} | {int(sizes['rows']):,} × {int(sizes['features']):,} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def of_times(rows):
    """The Markdown table of processor seconds."""
    lines = [
        f"| set | {OURS}, first fit | further fits | {COMMON} | scikit-learn's CV | {GRID} |",
        "|---|---|---|---|---|---|",
    ]
    for name in (*LOGISTIC, *RIDGE):
        theirs = THEIRS[name in LOGISTIC]
        values = [mean(cells(rows, name, OURS), "first")]
        values += [mean(cells(rows, name, method), "seconds") for method in (OURS, COMMON, theirs, GRID)]
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    return "\n".join(lines)


def tally(rows, names, other):
    """How often, over all sets and splits, the loss is 1 % lower, 1 % higher, or neither."""
    ratios = np.concatenate([losses(rows, name, OURS) / losses(rows, name, other) for name in names])
    wins, defeats = int((ratios < 0.99).sum()), int((ratios > 1.01).sum())
    return f"lower {wins} times, higher {defeats} times, {len(ratios) - wins - defeats} times within 1 %"


def sets_lost(rows):
    """The names of the sets where scikit-learn's own class has the lower mean loss."""
    lost = []
    for name in (*LOGISTIC, *RIDGE):
        theirs = losses(rows, name, THEIRS[name in LOGISTIC]).mean()
        ours = losses(rows, name, OURS).mean()
        if ours > theirs:
            lost.append(f"{name} (+{ours / theirs - 1:.1%})")
    return ", ".join(lost) or "none"


def speed(rows, column):
    """The sets on which a fit takes no longer than LogisticRegressionCV, and the others."""
    ratios = {
        name: mean(cells(rows, name, OURS), column) / mean(cells(rows, name, THEIRS[True]), "seconds")
        for name in LOGISTIC
    }
    faster, slower = (
        ", ".join(f"{name} ({ratio:.2g} ×)" for name, ratio in ratios.items() if (ratio > 1) == is_slower) or "none"
        for is_slower in (False, True)
    )
    return f"no slower on {faster}; slower on {slower}"


PAGE_TEXT = """# Penalties, measured

`PenalizedLogistic` and `PenalizedRidge` tune one L2 penalty per feature on the rows that five folds hold out. Is that
better than one penalty for all, and what does it cost? `benchmarks/penalties.py` writes this page from
[`penalties.csv`](penalties.csv). Each set has {splits} splits; all methods use their defaults, and nothing is tuned
to a set.

- *{ours}*: the estimators with their defaults. *{common}*: the same with `steps=0`, the point where the tuning starts.
- *LogisticRegressionCV*: 10 values, 5 folds, chosen by log-loss. *RidgeCV*: 10 values, leave-one-out (5 folds where X
  is sparse).
- *{grid}*: `GridSearchCV` over 25 values of one penalty, 5 folds.

## Test loss

The table shows the mean log-loss of the test rows, ± its standard error over the splits (which also differ in their
test rows). The best is in bold.

{logistic}

The mean squared error:

{ridge}

Over all sets and splits, the loss with a penalty per feature is

- against LogisticRegressionCV {versus_logistic}; against the grid {versus_logistic_grid};
- against RidgeCV {versus_ridge}; against the grid {versus_ridge_grid};
- against its own starting point, one penalty for all, {versus_common}.

Its mean loss is above that of LogisticRegressionCV or RidgeCV on: {lost}.

**Reading.** {reading}

## Time

The table shows processor seconds of all threads together (NumPy uses one thread), as the mean over the splits. The
first fit of a shape compiles a program; shapes that round up to the same sizes share it.

{times}

Against LogisticRegressionCV with 10 values and 5 folds,

- further fits: {speed};
- the first fit of a shape, with compilation: {first}.

{time_reading}
"""

READING = """On columns in *mixed units* (deviations from 10⁻³ to 10³, not centered), LogisticRegressionCV and the grid
lose, and a penalty per feature does not: its answer does not depend on units. This has a price where raw units say
something. On images and TF-IDF rows, the best of 25 common penalties on raw columns is up to 2.5 percent better. There,
dim pixels and common words are penalized more.

If only few of many features matter, the gain is large: the penalties of the other features rise together, and those of
the features that matter stay low. Otherwise both gains and losses are small. On TF-IDF rows hardly any word occurs in
enough rows to determine its own penalty. Where the mean loss is above that of LogisticRegressionCV, the deficit is
within a standard error or so over the splits. With many more rows than features (diabetes) a weak penalty does no harm,
and the choice of penalties matters little."""

TIME_READING = """The first fit of a shape compiles for three to five seconds, which is nearly all of its time on small
tables. Sparse products in XLA take about three times as long as SciPy's on one core. LogisticRegressionCV makes fifty
strongly penalized fits on TF-IDF rows, and each needs only a few products. RidgeCV on a dense table of few rows is
one factorization, and nothing here is as fast."""


def write_page():
    rows = read(CSV)
    both = (*LOGISTIC, *RIDGE)
    text = PAGE_TEXT.format(
        splits=len(SEEDS),
        ours=OURS,
        common=COMMON,
        grid=GRID,
        logistic=of_table(rows, LOGISTIC),
        ridge=of_table(rows, RIDGE),
        versus_logistic=tally(rows, LOGISTIC, THEIRS[True]),
        versus_logistic_grid=tally(rows, LOGISTIC, GRID),
        versus_ridge=tally(rows, RIDGE, THEIRS[False]),
        versus_ridge_grid=tally(rows, RIDGE, GRID),
        versus_common=tally(rows, both, COMMON),
        lost=sets_lost(rows),
        reading=READING,
        times=of_times(rows),
        speed=speed(rows, "seconds"),
        first=speed(rows, "first"),
        time_reading=TIME_READING,
    )
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="write the page from the existing measurements")
    arguments = parser.parse_args()
    if not arguments.page:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # convergence to the last digit
            measure_all()
    write_page()
