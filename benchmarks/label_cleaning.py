"""Finding wrong labels on real tables: LabelCleaner against cleanlab's ranking and the trusted rows alone.

    BILEVEL_DATA=DIR python benchmarks/label_cleaning.py  # measures what is not in the CSV, and writes the page
    python benchmarks/label_cleaning.py --page            # writes docs/label_cleaning.md from the CSV

Some labels of a table are made wrong. Some rows keep their labels and are trusted, and the test rows are right. Each
method ranks the doubtful rows, and the same logistic regression is fitted to the rows that it weights or drops. The
settings of LabelCleaner were tuned on made-up tables and on other draws of digits.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: on a busy machine its threads wait for each other

import argparse
import pathlib
import time
import warnings

import flags
import numpy as np
from label_models import model, out_of_fold, stacked
from measurements import measure_missing, read
from real_noise import CSV as REAL_CSV
from real_noise_page import section

import bilevel as bl
from bilevel import datasets
from bilevel.estimators import LabelCleaner

DOCS = pathlib.Path(__file__).parents[1] / "docs"
CSV, PAGE = DOCS / "label_cleaning.csv", DOCS / "label_cleaning.md"
RATES, NOISES, SEEDS = (0.2, 0.4, 0.6, 0.8), ("redrawn", "next"), (0, 1, 2)
SETS = ("digits", "breast cancer", "wine", "fashion-mnist", "mnist", "sentences")
ROWS = 5000  # of the three larger sets, redrawn for each seed
KEYS = ("set", "noise", "rate", "trusted", "seed")


def load(name, rng):
    """Features (dense ones standardized), labels, and the group of each row."""
    from sklearn.datasets import load_breast_cancer, load_wine
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import StandardScaler

    if name == "sentences":
        texts = datasets.load_text("sentences")
        rows = np.flatnonzero(np.isin(texts.groups, rng.permutation(texts.groups.max() + 1)[:ROWS]))[:ROWS]
        vectorizer = TfidfVectorizer(min_df=2, dtype=np.float32)
        return vectorizer.fit_transform([texts.texts[row] for row in rows]), texts.labels[rows], texts.groups[rows]
    if name in ("breast cancer", "wine"):
        features, labels = {"breast cancer": load_breast_cancer, "wine": load_wine}[name](return_X_y=True)
    else:
        loaded = datasets.load(name)
        features, labels = loaded.features, loaded.labels
        if len(labels) > ROWS:
            rows = rng.permutation(len(labels))[:ROWS]
            features, labels = (
                features[rows].reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(ROWS, 196),
                labels[rows],
            )
    return StandardScaler().fit_transform(features).astype(np.float32), labels, np.arange(len(labels))


def draw(name, noise, rate, trusted, seed):
    """The rows of a setting: 30 % for the test, `trusted` others, some of each class; the others are doubtful."""
    rng = np.random.default_rng([seed, SETS.index(name)])
    X, labels, groups = load(name, rng)
    order = np.argsort(rng.permutation(groups.max() + 1)[groups], kind="stable")
    test, rest = np.split(order, [round(0.3 * len(order))])
    test, rest = test[groups[test] != groups[rest[0]]], rng.permutation(rest)
    one_each = [rest[labels[rest] == label][0] for label in np.unique(labels)]
    chosen = np.concatenate([one_each, rest[~np.isin(rest, one_each)]])[:trusted]
    doubtful = rest[~np.isin(rest, chosen)]
    classes = labels.max() + 1
    changed = rng.random(len(doubtful)) < rate
    other = rng.integers(classes, size=len(doubtful)) if noise == "redrawn" else (labels[doubtful] + 1) % classes
    given = np.where(changed, other, labels[doubtful])
    return X, labels, given, doubtful, chosen, test


def measure(name, noise, rate, trusted, seed):
    """Measure one setting with one seed, as a row of the CSV."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores
    from sklearn.metrics import roc_auc_score

    X, labels, given, doubtful, chosen, test = draw(name, noise, rate, trusted, seed)
    X_doubtful, X_trusted, y_trusted, wrong = X[doubtful], X[chosen], labels[chosen], given != labels[doubtful]
    both, both_labels = stacked(X_doubtful, X_trusted), np.concatenate([given, y_trusted])
    row = dict(zip(KEYS, (name, noise, rate, trusted, seed), strict=True))

    def rank(column, quality):
        row["auroc " + column] = round(float(roc_auc_score(wrong, -quality)), 4)

    def score(column, fitted):
        row["accuracy " + column] = round(float(fitted.score(X[test], labels[test])), 4)

    score("noisy", model().fit(X_doubtful, given))
    score("plain", model().fit(both, both_labels))
    rank("cleanlab", get_label_quality_scores(given, out_of_fold(X_doubtful, given, None, None)))
    told = out_of_fold(X_doubtful, given, X_trusted, y_trusted)
    rank("cleanlab told", get_label_quality_scores(given, told))
    kept = np.concatenate([~find_label_issues(given, told), np.ones(len(chosen), bool)])
    score("cleanlab", model().fit(both[kept], both_labels[kept]))
    alone = model().fit(X_trusted, y_trusted)
    rank("trusted alone", alone.predict_proba(X_doubtful)[np.arange(len(given)), given])
    score("trusted alone", alone)
    still = {"solver": bl.SOBA(1e-9, 1e-9, 1e-9), "epochs": 1}  # the weights keep their initial values
    for column, rows, settings in (
        ("start alone", (X_trusted, y_trusted), still),
        ("ours", (X_trusted, y_trusted), {}),
        ("start, none trusted", (), still),
        ("ours, none trusted", (), {}),
    ):
        start = time.perf_counter()
        cleaner = LabelCleaner(model(), random_state=seed, **settings).fit(X_doubtful, given, *rows)
        rank(column, cleaner.sample_weight_)
        if not settings:
            row["seconds " + column] = round(time.perf_counter() - start, 2)
            score(column, cleaner)
    return row


def settings():
    """All settings, first those with 100 trusted rows. Wine has too few rows for them."""
    main = [(name, 20 if name == "wine" else 100) for name in SETS]
    yield from ((name, noise, rate, m) for name, m in main for noise in NOISES for rate in RATES)
    more = [(name, m) for name in ("digits", "mnist") for m in (20, 300)]
    yield from ((name, noise, rate, m) for name, m in more for noise in NOISES for rate in (0.4, 0.8))


def measure_all(only):
    wanted = [(*setting, seed) for seed in SEEDS for setting in settings() if not only or setting[0] == only]
    measure_missing(CSV, KEYS, wanted, measure)


def large(rows=1_000_000, columns=100, classes=5):
    """Measure seconds and memory of a large table, with and without trusted rows."""
    import resource

    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows + 500, columns), dtype=np.float32)
    scores = X @ rng.standard_normal((columns, classes), dtype=np.float32)
    labels = (scores + 2 * rng.gumbel(size=scores.shape).astype(np.float32)).argmax(axis=1)
    wrong = rng.random(rows) < 0.4
    given = np.where(wrong, (labels[500:] + 1) % classes, labels[500:])
    for trusted in ((X[:500], labels[:500]), ()):
        start = time.perf_counter()
        cleaner = LabelCleaner(random_state=0).fit(X[500:], given, *trusted)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        found = roc_auc_score(wrong, -cleaner.sample_weight_)
        print(f"{rows} rows, {bool(trusted)}: {time.perf_counter() - start:.0f} s, {memory:.1f} GB, AUROC {found:.3f}")


SHOWN = {
    "auroc": (
        ("cleanlab", "cleanlab"),
        ("cleanlab told", "cleanlab, told the trusted rows"),
        ("trusted alone", "trusted rows alone"),
        ("start alone", "ours: the start"),
        ("ours", "**ours**"),
        ("start, none trusted", "none trusted: the start"),
        ("ours, none trusted", "**ours, none trusted**"),
    ),
    "accuracy": (
        ("plain", "plain training"),
        ("cleanlab", "cleanlab's flags dropped"),
        ("trusted alone", "trusted rows alone"),
        ("ours", "**ours**"),
        ("noisy", "plain, none trusted"),
        ("ours, none trusted", "**ours, none trusted**"),
    ),
}
RIVALS = {
    "auroc": ("cleanlab", "cleanlab told", "trusted alone"),
    "accuracy": ("plain", "cleanlab", "trusted alone"),
}
KIND = {"redrawn": "redrawn", "next": "to the next"}


def averages(rows):
    """Setting ↦ column ↦ the mean over its seeds, and the number of seeds."""
    found = {}
    for setting in settings():
        runs = [row for row in rows if (row["set"], row["noise"], float(row["rate"]), int(row["trusted"])) == setting]
        if runs:
            columns = [name for name in runs[0] if name not in KEYS]
            found[setting] = {name: float(np.mean([float(run[name]) for run in runs])) for name in columns}
            found[setting]["seeds"] = len(runs)
    return found


def table(means, kind):
    """A Markdown table with one row per setting."""
    lines = ["| set | labels | noise | trusted | " + " | ".join(title for _, title in SHOWN[kind]) + " |"]
    lines.append("|---|---|--:|--:|" + "--:|" * len(SHOWN[kind]))
    for (name, noise, rate, trusted), mean in means.items():
        cells = " | ".join(f"{mean[f'{kind} {column}']:.3f}" for column, _ in SHOWN[kind])
        lines.append(f"| {name} | {KIND[noise]} | {rate:.0%} | {trusted} | {cells} |")
    return "\n".join(lines)


def losses(means, kind, column, rivals):
    """The settings in which a column is not above every rival, with the lead of the best rival."""
    found, use = [], "set aside" if "none trusted" in column else "trusted"
    for (name, noise, rate, trusted), mean in means.items():
        best = max(rivals, key=lambda rival: mean[f"{kind} {rival}"])
        behind = mean[f"{kind} {best}"] - mean[f"{kind} {column}"]
        if behind >= 0:
            title = "plain" if best == "noisy" else best
            found.append(f"{name}, {KIND[noise]}, {rate:.0%}, {trusted} {use}: {title}, by {behind:.3f}")
    return found


def sentence(means, kind, column, rivals):
    """A sentence with the number of wins, and all losses."""
    lost = losses(means, kind, column, rivals)
    gains = [mean[f"{kind} {column}"] - max(mean[f"{kind} {rival}"] for rival in rivals) for mean in means.values()]
    won = len(means) - len(lost)
    text = f"{won} of {len(means)}; the mean distance to the best of the others is {np.mean(gains):+.3f}."
    return text + "".join(f"\n    - lost: {one}" for one in lost)


def page(rows):
    means = averages(rows)
    enough = {setting: mean for setting, mean in means.items() if setting[3] >= 100}
    few = {setting: mean for setting, mean in means.items() if setting[3] < 100}
    sensible = {s: m for s, m in means.items() if s[1] == "redrawn" or s[2] < 0.5}  # the next label does not prevail
    seeds = {mean["seeds"] for mean in means.values()}
    seconds = [
        float(np.mean([float(row[f"seconds {name}"]) for row in rows])) for name in ("ours", "ours, none trusted")
    ]
    learned = np.mean([mean["auroc ours"] - mean["auroc start alone"] for mean in enough.values()])
    learned_few = np.mean([mean["auroc ours"] - mean["auroc start alone"] for mean in few.values()])
    learned_alone = np.mean([m["auroc ours, none trusted"] - m["auroc start, none trusted"] for m in sensible.values()])
    return TEXT.format(
        seeds=" or ".join(map(str, sorted(seeds))),
        runs=len(rows),
        rows=ROWS,
        ranking_enough=sentence(enough, "auroc", "ours", RIVALS["auroc"]),
        ranking_few=sentence(few, "auroc", "ours", RIVALS["auroc"]),
        accuracy_enough=sentence(enough, "accuracy", "ours", RIVALS["accuracy"]),
        accuracy_few=sentence(few, "accuracy", "ours", RIVALS["accuracy"]),
        alone=sentence(sensible, "auroc", "ours, none trusted", ("cleanlab",)),
        alone_accuracy=sentence(sensible, "accuracy", "ours, none trusted", ("noisy",)),
        learned=learned,
        learned_few=learned_few,
        learned_alone=learned_alone,
        seconds=seconds[0],
        seconds_alone=seconds[1],
        flags=flags.section(read(flags.CSV)),
        real=section(read(REAL_CSV)),
        auroc=table(means, "auroc"),
        accuracy=table(means, "accuracy"),
    )


TEXT = """<!-- Written by benchmarks/label_cleaning.py from label_cleaning.csv. -->
# Which labels are wrong? Measured

You have a table, and some of its labels are wrong. `LabelCleaner` ranks the rows by how doubtful their label is, and
fits your classifier so that doubtful rows count for little. It works best with some *trusted* rows, whose labels
you have checked; checking a hundred rows is worth the work.

Call `LabelCleaner().fit(X, y, X_trusted, y_trusted)`, then use `suspects_`, `scores_` and `predict`: see
[the first page](index.md) and [cleaning a table](examples/clean_a_table.md).

## In short

First come labels that a computer made wrong. [Labels that people got wrong](#labels-that-people-got-wrong) are harder:
see below, losses included.

A setting is a data set, a kind of noise, a share of wrong labels and a number of trusted rows. With 100 trusted rows
or more:

- **Ranking** of the wrong labels (AUROC). The rivals are cleanlab, cleanlab trained on the trusted rows too, and a
  classifier trained on the trusted rows alone. `LabelCleaner` is ahead of the best of them in
  {ranking_enough}
- **Test accuracy** of the classifier. The rivals are plain training on all rows, training without the rows that
  cleanlab flags, and training on the trusted rows alone. `LabelCleaner` is ahead of the best of them in
  {accuracy_enough}

With 20 trusted rows:

- Ranking: ahead in {ranking_few}
- Test accuracy: ahead in {accuracy_few}

Without trusted rows, in the settings where the data still show the truth (labels are redrawn, or fewer than half of
them moved to the next class; the rows that are trusted elsewhere are set aside):

- Ranking, against cleanlab: ahead in {alone}
- Test accuracy, against plain training: ahead in {alone_accuracy}

There is a limit. When more than half of a class's labels have moved to another class, the data suggest that the wrong
label is right. Without trusted rows every method then ranks the right labels as the doubtful ones: in the tables below,
cleanlab's AUROC and ours are far below 0.5. `LabelCleaner` warns that it cannot know.

The columns "the start" show the effect of learning the weights: they leave the weights at their initial values (see
`LabelCleaner`: log-odds by a model behind a confusion of labels). Over the settings with 100 trusted rows or more,
learning them changes the AUROC by {learned:+.4f} on average, with 20 by {learned_few:+.4f}, without any by
{learned_alone:+.4f}. A hundred trusted rows say little about thousands of single weights. Mostly they tell how labels
are confused, and the initial weights already use that. Twenty rows of ten classes say little even about the
confusion: if labels are redrawn, the ranking without trusted rows is then better or about the same (see digits and
MNIST below).

## How it was measured

- Sets: digits, breast cancer and wine of scikit-learn; {rows:,} rows each of Fashion-MNIST and MNIST (14×14 pixels)
  and of the rated sentences (TF-IDF; the sentences of one review stay on one side of the split). 30 % of the rows are
  for the test.
- Labels: with the probability in the column *noise*, a label is redrawn from all classes (and may stay the same by
  chance) or moved to the next class. With two classes, 60 or 80 % moved means that most labels are wrong.
- cleanlab: `get_label_quality_scores` ranks by the probabilities of five folds. "Told" means that each fold also
  trains on the trusted rows. "Dropped" means that the rows that `find_label_issues` finds with these are left out,
  and the classifier trains on the rest and the trusted rows.
- All methods use the classifier `LogisticRegression(max_iter=100)` on standardized features. The settings of
  `LabelCleaner` are the same everywhere; they were chosen on made-up tables and on other draws of digits.
- Means over {seeds} seeds, {runs} runs. On a busy machine of two cores, `fit` took {seconds:.1f} s with and
  {seconds_alone:.1f} s without trusted rows, compilation included; plain training is much faster.

A large table (`--large`) has a million rows of 100 columns and 5 classes, in float32. On the same busy machine it
took 192 s and at most 1.9 GB with 500 trusted rows, and 220 s and 2.3 GB without. Of this, 0.8 GB are for the table
itself and for making it.

A setting counts as a win if the mean is above each rival's mean, even if the difference is within the noise of three
seeds.

## Finding the wrong labels: AUROC

{auroc}

## The classifier: test accuracy

{accuracy}

`BILEVEL_DATA=DIR python benchmarks/label_cleaning.py` (DIR holds the data sets: `bilevel data`;
cleanlab is in the extra `benchmarks`) measures this again. All runs:
[`label_cleaning.csv`](label_cleaning.csv).

{flags}
{real}"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="write the page from the existing measurements")
    parser.add_argument("--set", choices=SETS, help="measure only this set")
    parser.add_argument("--large", action="store_true", help="only time a table of a million rows")
    arguments = parser.parse_args()
    if arguments.large:
        large()
        raise SystemExit
    if not arguments.page:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # convergence to the last digit; cleaning without trusted rows
            measure_all(arguments.set)
    PAGE.write_text(page(read(CSV)), "utf-8")
