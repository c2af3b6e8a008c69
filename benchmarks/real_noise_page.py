"""The part of docs/label_cleaning.md on labels that people got wrong, from docs/real_noise.csv."""

import numpy as np
from real_noise import (
    COMPONENTS,
    CROWD,
    ENTRIES,
    FILTERS,
    KEYS,
    MEASURES,
    ROWS,
    SEEDS,
    SETS,
    SIDE,
    TEST_ROWS,
    TRUSTED,
    WORDS,
    wanted,
)

RIVALS = ("cleanlab", "CleanLearning", "Datalab", "trusted alone")
COLUMNS = ("cleanlab", "CleanLearning", "trusted alone", "start", "ours")
TITLES = {
    "start": "ours: the start",
    "ours": "**ours**",
    "trusted alone": "trusted rows alone",
    "plain": "plain training",
}


def complete(rows):
    """The seeds of which everything is measured, and (set, trusted) ↦ method ↦ measure ↦ mean over them."""
    done = {tuple(row[key] for key in KEYS) for row in rows}
    per_seed = {seed: [(name, m, method) for name, m, method, s in wanted(None) if s == seed] for seed in SEEDS}
    seeds = [
        seed
        for seed, settings in per_seed.items()
        if all((name, str(m), method, str(seed)) in done for name, m, method in settings)
    ]
    runs = {}
    for row in rows:
        if int(row["seed"]) in seeds:
            runs.setdefault((row["set"], int(row["trusted"])), {}).setdefault(row["method"], []).append(row)
    means = {}
    for setting, methods in runs.items():
        means[setting] = {
            method: {
                key: float(np.mean([float(run[key]) for run in found]))
                for key in (*MEASURES, "wrong", "seconds")
                if found[0][key] != ""
            }
            for method, found in methods.items()
        }
    return seeds, {(name, m): means[name, m] for name in SETS for m in TRUSTED if (name, m) in means}


def compared(means, measure, column, rivals):
    """How often a method is ahead of all rivals, and its losses."""
    lost, gains = [], []
    for (name, m), methods in means.items():
        there = [rival for rival in rivals if rival in methods]
        best = max(there, key=lambda rival: methods[rival][measure])
        gains.append(methods[column][measure] - methods[best][measure])
        if gains[-1] <= 0:
            lost.append(f"\n    - lost: {name}, {m} trusted: {best}, by {0 - gains[-1]:.3f}")
    text = f"{len(means) - len(lost)} of {len(means)};\n  the mean distance to the best of the others is "
    return text + f"{np.mean(gains):+.3f}." + "".join(lost)


def table(means, columns, cell):
    lines = ["| labels | wrong | trusted | " + " | ".join(TITLES.get(column, column) for column in columns) + " |"]
    lines.append("|---|--:|--:|" + "--:|" * len(columns))
    for (name, m), methods in means.items():
        cells = [cell(methods[column]) if column in methods else "–" for column in columns]
        share = f"{methods['plain']['wrong']:.1%}"
        lines.append(f"| {name} | {share} | {m} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def section(rows):
    """The part of docs/label_cleaning.md on labels that people got wrong."""
    seeds, means = complete(rows)
    told = {setting: methods for setting, methods in means.items() if setting[1]}
    alone = {setting: methods for setting, methods in means.items() if not setting[1]}
    crowd = {setting: methods for setting, methods in means.items() if "Dawid-Skene" in methods}
    same = max(
        abs(methods["Datalab"][key] - methods["cleanlab"][key])
        for methods in means.values()
        for key in ("auroc", "f1", "accuracy")
    )

    def by_trusted(key):
        found = []
        for m in TRUSTED:
            changes = [meth["ours"][key] - meth["start"][key] for (_, number), meth in means.items() if number == m]
            found.append(f"{np.mean(changes):+.4f}")
        return ", ".join(found)

    def number(key):
        return lambda found: f"{found[key]:.3f}"

    refits = ("plain", *RIVALS)

    def harm(method):
        """In how many settings the labels are worse than given once all proposals are accepted, and the mean change."""
        changes = [meth[method]["labels"] - 1 + meth["plain"]["wrong"] for meth in means.values()]
        return f"{sum(change < -1e-6 for change in changes)} of {len(changes)} (mean change {np.mean(changes):+.3f})"

    return TEXT.format(
        seeds=len(seeds),
        rows=ROWS,
        test_rows=TEST_ROWS,
        words=WORDS,
        entries=ENTRIES,
        filters=FILTERS,
        side=SIDE,
        components=COMPONENTS,
        same=same,
        ranking_told=compared(told, "auroc", "ours", RIVALS),
        ranking_alone=compared(alone, "auroc", "ours", RIVALS),
        precise_told=compared(told, "average precision", "ours", RIVALS),
        precise_alone=compared(alone, "average precision", "ours", RIVALS),
        flags=compared(means, "f1", "ours", RIVALS),
        accuracy_told=compared(told, "accuracy", "ours", refits),
        accuracy_alone=compared(alone, "accuracy", "ours", refits),
        harm=harm("ours"),
        harm_cleanlab=harm("cleanlab"),
        crowd_ranking=compared(crowd, "auroc", "ours, crowd", ("Dawid-Skene", "crowdlab")),
        crowd_labels=compared(crowd, "labels", "ours, crowd", ("Dawid-Skene", "crowdlab")),
        learned_auroc=by_trusted("auroc"),
        learned_precision=by_trusted("average precision"),
        learned_accuracy=by_trusted("accuracy"),
        auroc=table(means, COLUMNS, number("auroc")),
        average_precision=table(means, COLUMNS, number("average precision")),
        f1=table(means, COLUMNS, lambda found: f"{found['precision']:.2f} / {found['recall']:.2f} / {found['f1']:.2f}"),
        accuracy=table(means, ("plain", *COLUMNS), number("accuracy")),
        crowd=table(
            crowd,
            ("ours", *CROWD),
            lambda found: " / ".join(f"{found[key]:.3f}" for key in ("auroc", "labels", "accuracy")),
        ),
    )


TEXT = """## Labels that people got wrong

Labels that a computer makes wrong are easier than those that people get wrong: people err where the features are
unclear. The settings below have labels of people, at 0, 50, 200 and 1,000 trusted rows.

- CIFAR-10N: the labels of three people per image (Wei et al., 2022): those of most of them (*aggregate*), those of one
  (*random*), and a wrong one where there is any (*worst*).
- Sentences of film reviews, each judged by some of 203 people (Rodrigues et al., 2013): the label of *one person* per
  sentence, and that of most of *a crowd*.
- *Test*: the published test labels of MNIST, 20 Newsgroups and CIFAR-10, of which five people checked those that looked
  wrong (Northcutt et al., 2021). A label counts as wrong if fewer than three of them confirmed it. Confident learning,
  cleanlab's method, chose what was checked, with far better models. Nobody checked the others: they count as right.

A draw has {rows:,} doubtful rows (all that were checked among them), the trusted rows, whose labels are right, and
{test_rows:,} test rows. Features are few and at hand: 14×14 pixels of MNIST; TF-IDF of {words:,} words (of postings,
the {entries} largest); of color images {components} principal components of the responses to {filters} random patches
of {side}×{side} pixels (Coates & Ng, 2012). Better features would help all methods. Classifier and settings are those
of the tables above. Means over {seeds} draws; a win may again be within the noise.

The rivals are cleanlab, with five folds that also train on the trusted rows: `get_label_quality_scores` and
`find_label_issues`, with a classifier trained without the rows found; `CleanLearning`, fitted to doubtful and trusted
rows; `Datalab`, given the same probabilities, which differs from the first by at most {same:.3f} in any number here and
has no column; and the trusted rows alone.

- **Ranking** (AUROC), with trusted rows: `LabelCleaner` is ahead in {ranking_told}
- Without trusted rows: {ranking_alone}
- **The top of the ranking** (average precision), with trusted rows: ahead in {precise_told}
- Without trusted rows: {precise_alone}
- **Rows to check** (F1): `to_check_`, as many rows as labels are estimated to be wrong, against the rivals' flags.
  Ahead in {flags}
- Another label is proposed (`suspects_`) for few of these rows, as four of five proposals shall be right, and for none
  where the model is found too weak to tell its own errors from wrong labels. Accepting the proposals makes the labels
  worse than given in {harm}; accepting cleanlab's predicted labels where
  `find_label_issues` flags does so in {harm_cleanlab}.
- **Test accuracy**; plain training is one more rival. With trusted rows: ahead in {accuracy_told}
- Without trusted rows: {accuracy_alone}

**What learning the weights adds** to their start, at 0, 50, 200 and 1,000 trusted rows, on average over the sets: AUROC
{learned_auroc}; average precision {learned_precision}; test accuracy {learned_accuracy}.

The start was once the weak point with few trusted rows. The confusion of labels is the mean prediction of a model on
the trusted rows of each class. A weak model is unsure even where labels are right, and its doubts then count as
confusion; and a mean over five rows is noisy. So 50 trusted rows could make the ranking far worse than none. Now the
confusion is drawn toward 0.8 I + 0.2/k as far as held-out trusted rows bear. What was tried before that, on single
draws and by scripts that are not kept (AUROC):

- Other weights learned on 200 trusted rows, from the same start (CIFAR-10N random, 0.774; one person's, 0.707). Single
  weights as now: 0.798; 0.711. A temperature and an offset for all rows: 0.792; 0.705. An offset per class: 0.805;
  0.708. Offsets linear in the features (CIFAR-10N alone): 0.784. With a penalty on what is learned, validation is
  regularized: 0.782; 0.705, and per class 0.782; 0.711, and by features 0.777. On MNIST with 40 % of the labels moved
  to the next class, a temperature and offsets per class leave 0.987 within 0.001. None is better everywhere.
- A start with 5 or 25 times the penalty: worse on all three sets that were tried (CIFAR-10N random, 200 trusted rows:
  0.754 becomes 0.599 and 0.472).
- The confusion estimated again from the doubtful rows by the EM algorithm, from 0.8 I + 0.2/k: worse from iteration to
  iteration (CIFAR-10N random, 200 trusted rows: 0.802 to 0.721).

**A crowd.** `LabelCleaner.fit(X, answers)` takes rows by people. Its rivals are Dawid and Skene's method, which sees no
features (`crowd_labels`), and cleanlab's `get_label_quality_multiannotator`, given the probabilities of the folds.

- Ranking of the majority's labels (AUROC): ahead in {crowd_ranking}
- Share of right labels among those that each method proposes: ahead in {crowd_labels}

AUROC / share of right labels / test accuracy, where *ours* sees the majority's labels alone:

{crowd}

### Real labels, ranking: AUROC

{auroc}

### Real labels, ranking: average precision

{average_precision}

### Real labels, rows to check: precision / recall / F1

{f1}

### Real labels, the classifier: test accuracy

{accuracy}

`BILEVEL_DATA=DIR python benchmarks/real_noise.py` measures this again. All runs: [`real_noise.csv`](real_noise.csv).
"""
