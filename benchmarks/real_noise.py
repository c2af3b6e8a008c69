"""Labels that people got wrong: LabelCleaner against cleanlab and the trusted rows alone.

    BILEVEL_DATA=DIR python benchmarks/real_noise.py               # measures what is not in docs/real_noise.csv
    BILEVEL_DATA=DIR python benchmarks/real_noise.py --again ours  # measures a method anew
    python benchmarks/label_cleaning.py --page                     # writes the page, with the part on these labels

A row of the CSV is a set, a number of trusted rows, a method and a seed. A seed draws the doubtful rows, those from
which the trusted ones are taken, and the test rows. All methods see the same rows.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: on a busy machine its threads wait for each other

import argparse
import csv
import functools
import pathlib
import time
import warnings

import numpy as np
from label_models import model, out_of_fold, stacked
from measurements import measure_missing, read

import bilevel as bl
from bilevel import datasets
from bilevel.estimators import LabelCleaner, crowd_labels

CSV = pathlib.Path(__file__).parents[1] / "docs" / "real_noise.csv"
SETS = {  # name ↦ data set, its labels
    "CIFAR-10N aggregate": ("cifar-10n", "aggregate"),
    "CIFAR-10N random": ("cifar-10n", "random 1"),
    "CIFAR-10N worst": ("cifar-10n", "worst"),
    "one person's": ("crowd-sentiment", "one"),
    "a crowd's": ("crowd-sentiment", "majority"),
    "MNIST test": ("mnist-errors", "published"),
    "Newsgroups test": ("news-errors", "published"),
    "CIFAR-10 test": ("cifar-10-errors", "published"),
}
TRUSTED, SEEDS = (0, 50, 200, 1000), (0, 1, 2, 3, 4)
ROWS, TEST_ROWS = 2500, 2000
WORDS, ENTRIES = 2000, 64  # the most frequent words; at most this many per posting
FILTERS, SIDE, COMPONENTS = 128, 6, 200
KEYS = ("set", "trusted", "method", "seed")
MEASURES = ("auroc", "average precision", "flags", "precision", "recall", "f1", "labels", "accuracy")


@functools.lru_cache(maxsize=1)
def loaded(name):
    return datasets.load_doubtful(name)


@functools.lru_cache(maxsize=1)
def drawn(name, seed):
    """Indices of doubtful rows (all that people checked among them), of rows to trust and of test rows; features."""
    data = loaded(name)
    rng = np.random.default_rng([seed, datasets.DOUBTFUL_NAMES.index(name)])
    order = rng.permutation(len(data.checked))
    order = order[np.argsort(~data.checked[order], kind="stable")] if not data.checked.all() else order
    doubtful, rest = order[:ROWS], order[ROWS:]
    first = [rest[data.labels[rest] == label][0] for label in range(data.classes)]  # each class has a trusted row
    trusted = np.concatenate([first, rest[~np.isin(rest, first)]])[: max(TRUSTED)]
    test = rng.permutation(np.arange(len(data.checked), len(data.labels)))[:TEST_ROWS]
    return doubtful, trusted, test, features(data, np.concatenate([doubtful, trusted, test]), rng)


def features(data, rows, rng):
    """Few features, at hand: TF-IDF of texts, pixels of digits, random convolutional features of color images."""
    import scipy.sparse
    from sklearn.decomposition import PCA
    from sklearn.feature_extraction.text import TfidfTransformer, TfidfVectorizer
    from sklearn.preprocessing import StandardScaler

    if isinstance(data.features, tuple):
        vectorizer = TfidfVectorizer(min_df=2, max_features=WORDS, dtype=np.float32)
        return vectorizer.fit_transform([data.features[row] for row in rows])
    X = data.features[rows]
    if scipy.sparse.issparse(X):
        counts = np.asarray((X > 0).sum(axis=0)).ravel()
        return largest(TfidfTransformer().fit_transform(X[:, np.argsort(-counts)[:WORDS]]))
    if X.shape[1] == 784:
        X = X.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(len(X), 196)
    else:
        X = PCA(COMPONENTS, random_state=0).fit_transform(convolved(X.reshape(-1, 3, 32, 32), rng))
    return StandardScaler().fit_transform(X).astype(np.float32)


def largest(X):
    """The largest entries of each row."""
    X = X.tocsr()
    for start, end in zip(X.indptr, X.indptr[1:], strict=False):
        X.data[start:end][np.argsort(-X.data[start:end])[ENTRIES:]] = 0
    X.eliminate_zeros()
    return X.astype(np.float32)


def convolved(images, rng):
    """Responses to random patches of the images, rectified and averaged over quadrants (Coates & Ng, 2012)."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (SIDE, SIDE), axis=(2, 3))
    windows = windows.transpose(0, 2, 3, 1, 4, 5)  # image, place, place, color, side, side
    places = windows.shape[1]

    def normalized(patches):
        patches = patches.reshape(len(patches), -1)
        return (patches - patches.mean(axis=1, keepdims=True)) / (patches.std(axis=1, keepdims=True) + 0.04)

    drawn = [rng.integers(0, most, 20_000) for most in (len(images), places, places)]
    patches = normalized(windows[tuple(drawn)])
    values, vectors = np.linalg.eigh(np.cov(patches.T))
    whiten = (vectors / np.sqrt(np.maximum(values, 0) + 0.1) @ vectors.T).astype(np.float32)
    filters = patches[patches.any(axis=1)][:FILTERS] @ whiten
    filters = (whiten @ (filters / np.linalg.norm(filters, axis=1, keepdims=True)).T).astype(np.float32)
    out = np.empty((len(images), 4 * 2 * FILTERS), np.float32)
    half = places // 2
    for start in range(0, len(images), 50):
        part = windows[start : start + 50]
        found = (normalized(part.reshape(-1, *part.shape[3:])) @ filters).reshape(*part.shape[:3], FILTERS)
        pooled = [
            np.maximum(sign * quarter - 0.25, 0).mean(axis=(1, 2))
            for rows in (found[:, :half], found[:, half:])
            for quarter in (rows[:, :, :half], rows[:, :, half:])
            for sign in (1, -1)
        ]
        out[start : start + 50] = np.concatenate(pooled, axis=1)
    return out


class Setting:
    """The rows of a setting."""

    def __init__(self, name, trusted, seed):
        base, kind = SETS[name]
        data = loaded(base)
        doubtful, pool, test, X = drawn(base, seed)
        self.name, self.trusted, self.seed, self.classes = name, trusted, seed, data.classes
        self.X, self.X_trusted, self.X_test = X[:ROWS], X[ROWS : ROWS + trusted], X[ROWS + len(pool) :]
        self.right, self.y_trusted, self.y_test = (data.labels[rows] for rows in (doubtful, pool[:trusted], test))
        self.answers = data.given["crowd"][doubtful] if base == "crowd-sentiment" else None
        self.given = data.given[kind][doubtful] if self.answers is None else self.one_each(kind)
        self.wrong = self.given != self.right

    def one_each(self, kind):
        """The label of one person, drawn for each row, or of most people, ties broken by a draw."""
        rng = np.random.default_rng([self.seed, 7])
        noise = rng.random(self.answers.shape)
        if kind == "one":
            chosen = np.where(np.ma.getmaskarray(self.answers), -1, noise).argmax(axis=1)
            return np.asarray(self.answers[np.arange(len(noise)), chosen])
        votes = np.stack([(self.answers == label).sum(axis=1).filled(0) for label in range(self.classes)], axis=1)
        return (votes + 0.5 * noise[:, : self.classes]).argmax(axis=1)

    def told(self):
        """The probabilities of five folds, each trained with the trusted rows too."""
        return _told(self.name, self.trusted, self.seed)

    def refitted(self, labels, kept=None, weights=None):
        """The classifier fitted to the doubtful rows that are kept, and to the trusted ones."""
        kept = np.ones(len(labels), bool) if kept is None else kept
        X, y = self.X[kept], labels[kept]
        if self.trusted:
            X, y = stacked(X, self.X_trusted), np.concatenate([y, self.y_trusted])
            weights = None if weights is None else np.concatenate([weights[kept], np.ones(self.trusted)])
        return model().fit(X, y, sample_weight=weights)


@functools.lru_cache(maxsize=1)
def _told(*key):
    setting = Setting(*key)
    more = (setting.X_trusted, setting.y_trusted) if setting.trusted else (None, None)
    return out_of_fold(setting.X, setting.given, *more, setting.classes)


def plain(s):
    return None, None, None, s.refitted(s.given)


def trusted_alone(s):
    fitted = model().fit(s.X_trusted, s.y_trusted)
    found = fitted.predict_proba(s.X)
    proposed = found.argmax(axis=1)
    return found[np.arange(ROWS), s.given], proposed != s.given, proposed, fitted


def cleanlab(s):
    """`get_label_quality_scores`, `find_label_issues`, and a classifier without the rows found."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    flags = find_label_issues(s.given, s.told(), n_jobs=1)
    quality = get_label_quality_scores(s.given, s.told())
    return quality, flags, s.told().argmax(axis=1), s.refitted(s.given, ~flags)


def clean_learning(s):
    from cleanlab.classification import CleanLearning

    X, y = s.X, s.given
    if s.trusted:
        X, y = stacked(X, s.X_trusted), np.concatenate([y, s.y_trusted])
    fitted = CleanLearning(model(), seed=s.seed, find_label_issues_kwargs={"n_jobs": 1}).fit(X, y)
    found = fitted.get_label_issues().iloc[:ROWS]
    return *(found[key].to_numpy() for key in ("label_quality", "is_label_issue", "predicted_label")), fitted


def datalab(s):
    from cleanlab import Datalab

    lab = Datalab({"label": s.given}, label_name="label", verbosity=0)
    lab.find_issues(pred_probs=s.told(), issue_types={"label": {}})
    found = lab.get_issues("label")
    flags = found["is_label_issue"].to_numpy()
    proposed = found["predicted_label"].to_numpy()
    return found["label_score"].to_numpy(), flags, proposed, s.refitted(s.given, ~flags)


def ours(s, **settings):
    fitted = LabelCleaner(model(), random_state=s.seed, **settings)
    fitted.fit(s.X, s.given, *((s.X_trusted, s.y_trusted) if s.trusted else ()))
    return *judged(fitted, s.given), fitted


def judged(fitted, given):
    """Quality, rows to check and proposals of a LabelCleaner; the given label where it proposes no other."""
    quality, proposed = np.empty(len(given)), given.copy()
    quality[fitted.scores_["row"]] = np.arange(len(given))  # the most doubtful first
    proposed[fitted.suspects_["row"]] = fitted.suspects_["label"]
    flags = np.isin(np.arange(len(given)), fitted.to_check_["row"]) | (proposed != given)
    return quality, flags, proposed


def start(s):
    return ours(s, solver=bl.SOBA(1e-9, 1e-9, 1e-9), epochs=1)  # the weights keep their initial values


def dawid_skene(s):
    found = crowd_labels(s.answers)
    proposed = found.labels
    return found.probabilities[np.arange(ROWS), s.given], proposed != s.given, proposed, s.refitted(proposed)


def crowdlab(s):
    """cleanlab's multi-annotator labels."""
    from cleanlab.multiannotator import get_label_quality_multiannotator

    answers = s.answers.astype(float).filled(np.nan)
    answers = answers[:, ~np.isnan(answers).all(axis=0)]
    found = get_label_quality_multiannotator(answers, s.told(), verbose=False, return_annotator_stats=False)
    found = found["label_quality"]
    proposed = found["consensus_label"].to_numpy().astype(int)
    quality = found["consensus_quality_score"].to_numpy()
    quality = np.where(proposed == s.given, quality, 1 - quality)
    return quality, proposed != s.given, proposed, s.refitted(proposed)


def ours_crowd(s):
    fitted = LabelCleaner(model(), random_state=s.seed)
    fitted.fit(s.X, s.answers, *((s.X_trusted, s.y_trusted) if s.trusted else ()))
    same, proposed = fitted.crowd_.labels == s.given, fitted.crowd_.labels.copy()
    proposed[fitted.suspects_["row"]] = fitted.suspects_["label"]
    quality = np.where(same, fitted.sample_weight_, 1 - fitted.sample_weight_)  # two classes
    return quality, proposed != s.given, proposed, fitted


METHODS = {
    "plain": plain,
    "trusted alone": trusted_alone,
    "cleanlab": cleanlab,
    "CleanLearning": clean_learning,
    "Datalab": datalab,
    "start": start,
    "ours": ours,
    "Dawid-Skene": dawid_skene,
    "crowdlab": crowdlab,
    "ours, crowd": ours_crowd,
}
CROWD = ("Dawid-Skene", "crowdlab", "ours, crowd")


def measure(name, trusted, method, seed):
    """Measure one method in one setting, as a row of the CSV."""
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

    s = Setting(name, trusted, seed)
    row = dict(zip(KEYS, (name, trusted, method, seed), strict=True)) | dict.fromkeys(MEASURES, "")
    begin = time.process_time()
    quality, flags, proposed, fitted = METHODS[method](s)
    row["wrong"] = round(float(s.wrong.mean()), 4)
    row["seconds"] = round(time.process_time() - begin, 2)
    found = {"accuracy": fitted.score(s.X_test, s.y_test)}
    if quality is not None:
        scores = precision_recall_fscore_support(s.wrong, flags, average="binary", zero_division=0)[:3]
        found |= dict(zip(("precision", "recall", "f1"), scores, strict=True))
        found["auroc"] = roc_auc_score(s.wrong, -quality)
        found["average precision"] = average_precision_score(s.wrong, -quality)
        found["flags"] = flags.mean()
        found["labels"] = (np.where(flags, proposed, s.given) == s.right).mean()
    return row | {key: round(float(value), 4) for key, value in found.items()}


def wanted(only):
    for seed in SEEDS:
        for name in SETS:
            for trusted in TRUSTED:
                for method in METHODS:
                    if (method in CROWD and name != "a crowd's") or (method == "trusted alone" and not trusted):
                        continue
                    if not only or name == only:
                        yield name, trusted, method, seed


def forget(method):
    """Take a method's rows out of the CSV."""
    rows = read(CSV)
    with CSV.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row for row in rows if row["method"] != method)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=SETS, help="measure only this set")
    parser.add_argument("--again", choices=METHODS, action="append", default=[], help="measure this method anew")
    arguments = parser.parse_args()
    for method in arguments.again:
        forget(method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # convergence to the last digit; cleaning without trusted rows
        measure_missing(CSV, KEYS, wanted(arguments.set), measure)
