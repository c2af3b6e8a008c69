"""How far flags and the estimate of wrong labels can be trusted, on small tables whose right labels are known.

    python benchmarks/flags.py                         # measures what is not in docs/flags.csv
    python benchmarks/label_cleaning.py --page         # writes the page, with the part on flags

A row of the CSV is a table, a kind and a share of wrong labels, a number of trusted rows and a seed.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: on a busy machine its threads wait for each other

import itertools
import pathlib
import warnings

import numpy as np
from label_models import out_of_fold
from measurements import measure_missing

CSV = pathlib.Path(__file__).parents[1] / "docs" / "flags.csv"
TABLES = ("digits", "breast cancer", "wine")
NOISES = (("none", 0.0), ("redrawn", 0.1), ("redrawn", 0.4), ("to the next", 0.2), ("rare classes, redrawn", 0.1))
TRUSTED, SEEDS, ROWS = (0, 20, 50, 100), (0, 1, 2, 3, 4), 900
KEYS = ("table", "labels", "noise", "trusted", "seed")
EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the weights, for the reliability


def drawn(table, labels, noise, trusted, seed):
    """Features, given and right labels of the doubtful rows; features and labels of the trusted ones."""
    from sklearn import datasets
    from sklearn.preprocessing import StandardScaler

    load = {"digits": datasets.load_digits, "breast cancer": datasets.load_breast_cancer, "wine": datasets.load_wine}
    data, rng = load[table](), np.random.default_rng([seed, TABLES.index(table)])
    order = rng.permutation(len(data.target))
    X, y = StandardScaler().fit_transform(data.data).astype(np.float32)[order], data.target[order]
    k = y.max() + 1
    if labels.startswith("rare"):
        kept = rng.random(len(y)) < np.linspace(1, 0.08, k)[y]
        X, y = X[kept], y[kept]
    first = [np.flatnonzero(y == label)[0] for label in range(k)] if trusted else []
    rest = np.setdiff1d(np.arange(len(y)), first)
    checked = np.concatenate([first, rest])[:trusted].astype(int)
    doubtful = np.setdiff1d(np.arange(len(y)), checked)[:ROWS]
    right, hit = y[doubtful], rng.random(len(doubtful)) < noise
    other = (right + 1) % k if labels == "to the next" else rng.integers(k, size=len(right))
    return X[doubtful], np.where(hit, other, right), right, X[checked], y[checked]


def measure(table, labels, noise, trusted, seed):
    from cleanlab.filter import find_label_issues

    from bilevel.estimators import LabelCleaner

    X, given, right, *checked = drawn(table, labels, noise, trusted, seed)
    cleaner = LabelCleaner(random_state=seed).fit(X, given, *(checked if trusted else ()))
    found = out_of_fold(X, given, *(checked if trusted else (None, None)), right.max() + 1)
    issues = find_label_issues(given, found, n_jobs=1)
    flags, estimate = cleaner.suspects_, cleaner.wrong_labels_
    accepted = given.copy()
    accepted[flags["row"]] = flags["label"]
    row = dict(zip(KEYS, (table, labels, noise, trusted, seed), strict=True)) | {"rows": len(given)}
    row |= {"flags": len(flags), "right proposals": int((accepted == right)[flags["row"]].sum())}
    row |= {"wrong": int((given != right).sum()), "wrong flagged": int((given != right)[flags["row"]].sum())}
    row |= {"wrong after accepting": int((accepted != right).sum())}
    row |= {name: round(getattr(estimate, name), 4) for name in ("share", "low", "high")}
    row |= {"cleanlab flags": int(issues.sum()), "cleanlab wrong flagged": int((issues & (given != right)).sum())}
    row |= {"cleanlab wrong after accepting": int((np.where(issues, found.argmax(axis=1), given) != right).sum())}
    for low, high in itertools.pairwise(EDGES):
        inside = (cleaner.sample_weight_ >= low) & (cleaner.sample_weight_ < (high if high < 1 else 2))
        row |= {f"rows {low}": int(inside.sum()), f"right {low}": int((given == right)[inside].sum())}
        row |= {f"weights {low}": round(float(cleaner.sample_weight_[inside].sum()), 3)}
    return row


def section(rows):
    """The part of the page."""
    if not rows:
        return ""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in KEYS[:4]), []).append(row)

    def total(group, name):
        return sum(float(row[name]) for row in group)

    lines, worse, ours_right, ours_flags, covered, cleanlab_worse = [], 0, 0, 0, 0, 0
    for (table, labels, noise, trusted), group in groups.items():
        n, wrong, flags = total(group, "rows"), total(group, "wrong"), total(group, "flags")
        right = total(group, "right proposals")
        worse += sum(float(row["wrong after accepting"]) > float(row["wrong"]) for row in group)
        cleanlab_worse += sum(float(row["cleanlab wrong after accepting"]) > float(row["wrong"]) for row in group)
        ours_right, ours_flags = ours_right + right, ours_flags + flags
        inside = sum(
            float(row["low"]) <= float(row["wrong"]) / float(row["rows"]) <= float(row["high"]) for row in group
        )
        covered += inside
        means = [np.mean([float(row[name]) for row in group]) for name in ("share", "low", "high")]
        cells = [table, labels, f"{float(noise):.0%}", trusted, f"{flags / len(group):.0f}"]
        cells += [f"{right / flags:.2f}" if flags else "–"]
        cells += [f"{total(group, 'wrong flagged') / wrong:.2f}" if wrong else "–"]
        cells += [f"{1 - wrong / n:.3f}", f"{1 - total(group, 'wrong after accepting') / n:.3f}"]
        cells += [f"{1 - total(group, 'cleanlab wrong after accepting') / n:.3f}"]
        cells += [f"{means[0]:.3f} ({means[1]:.3f}–{means[2]:.3f})", f"{wrong / n:.3f}", f"{inside} of {len(group)}"]
        lines.append("| " + " | ".join(cells) + " |")
    bins = []
    for low, high in itertools.pairwise(EDGES):
        count = total(rows, f"rows {low}")
        if count:
            mean, share = (total(rows, f"{name} {low}") / count for name in ("weights", "right"))
            bins.append(f"| {low:.1f}–{high:.1f} | {count:,.0f} | {mean:.2f} | {share:.2f} |")
    return TEXT.format(
        runs=len(rows),
        right=ours_right / ours_flags,
        worse=worse,
        cleanlab_worse=cleanlab_worse,
        covered=covered,
        bins="\n".join(bins),
        table="\n".join(lines),
    )


TEXT = """## How far can a flag be trusted?

`suspects_` are chosen so that at least four of five proposed labels should be right (`precision=0.8`), and
`wrong_labels_` estimates the share of wrong labels, with an interval that should hold it nine times of ten. Both hold
if the model is right where it is surest. On these tables it is: of all proposals {right:.0%} are right, accepting them
makes labels worse than given in {worse} of {runs} runs (with cleanlab's flags and the most probable classes in
{cleanlab_worse}), and the interval holds the truth in {covered}. On harder features it need not be. Often nothing is
flagged then, but not always, and fewer than four of five proposals may be right: see the labels that people got wrong,
below.

Is `sample_weight_` a probability? Over all runs:

| weight | rows | mean weight | share of right labels |
|---|--:|--:|--:|
{bins}

Per setting, over five draws:

| table | labels | noise | trusted | flags | right proposals | wrong labels flagged | right labels given \
| after accepting | accepting cleanlab's | estimated wrong | wrong | interval holds |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
{table}

`python benchmarks/flags.py` measures this again. All runs: [`flags.csv`](flags.csv).
"""


if __name__ == "__main__":
    settings = [
        (table, labels, noise, trusted, seed)
        for table in TABLES
        for labels, noise in NOISES
        for trusted in TRUSTED
        for seed in SEEDS
        if not (table == "wine" and (labels.startswith("rare") or trusted == 100))  # too few rows
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cleaning without trusted rows
        measure_missing(CSV, KEYS, settings, measure)
