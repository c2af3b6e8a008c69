"""Several people's labels for each row: the right label, and how far each person can be trusted."""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int
from scipy.special import softmax

from bilevel import _checks as checks
from bilevel.estimators._common import is_missing, of_one_kind

_MOST = 1000  # iterations
_CHANGE = 1e-6  # of a probability, below which EM ends
_SHRINKAGE = 4.0
_LEAST = np.finfo(float).tiny


class CrowdLabels(NamedTuple):
    """What the answers of a crowd say of each row, and of each person.

    - `labels`: (n,), the most probable class of each row.
    - `probabilities`: (n, k), the probability of each class.
    - `classes`: (k,), the classes, sorted.
    - `confusion`: (people, k, k), P(person p answers l | true class t) at [p, t, l].
    """

    labels: np.ndarray
    probabilities: Float[np.ndarray, "n k"]
    classes: np.ndarray
    confusion: Float[np.ndarray, "people k k"]


def crowd_labels(answers: Any, *, shrinkage: float = _SHRINKAGE) -> CrowdLabels:
    """The right labels of rows that several people labeled, each row by some of them.

    Person p answers l with the probability π_p(t, l) if the true class is t, independently of the others, and ρ_t is
    the share of class t. The EM algorithm starts with T_i(t), the share of row i's answers that name t, and alternates

        ρ_t       = mean over rows of T_i(t)
        π_p(t, l) = (N_p(t, l) + s π(t, l)) / (Σ_m N_p(t, m) + s)
        T_i(t)    ∝ ρ_t Π over the answers (p, l) to row i of π_p(t, l)

    until no T_i(t) moves by more than 10⁻⁶. N_p(t, l) is the sum of T_i(t) over the rows i to which p answered l. A
    person of few answers says little about π_p. It is drawn toward the confusion of all people together, as if this
    person had given s further answers per class: π(t, l) ∝ Σ_p N_p(t, l) + [t = l] + 1/k, where a right answer and one
    at random are added for each class.

    **Arguments**

    - `answers` (n, people): numbers or texts, as an array, nested lists or a DataFrame. An answer
      is missing where it is None, NaN, pandas' NA or masked. −1 is a label like others. Whole numbers that are floats,
      as NaN makes them, become integers.
    - `shrinkage`: s.

    **Raises** `ValueError` if `answers` has no two axes, a row without an answer, or fewer than two classes;
    `TypeError` if some labels are texts and some are not.

    Example:

        >>> from bilevel.estimators import crowd_labels
        >>> answers = [["a", "a", "b"], ["b", "b", None], ["a", "a", "a"], [None, "b", "a"], ["b", "b", "a"]]
        >>> crowd_labels(answers).labels.tolist()
        ['a', 'b', 'a', 'b', 'b']

    Reference: Dawid & Skene, "Maximum likelihood estimation of observer error-rates using the EM algorithm", Applied
    Statistics 28 (1979), equations 2.3 to 2.5. Differences: a person answers once per row, and the shrinkage. It makes
    (2.3) the mode under a Dirichlet prior, whose mean is estimated again in each iteration.
    """
    checks.positive("shrinkage", shrinkage)
    return judged("answers", answers, shrinkage)


def is_crowd(y: Any) -> bool:
    """Whether y has several people's labels per row. One column is one label per row."""
    try:
        shape = np.asarray(y).shape
    except ValueError:  # a ragged list, which scikit-learn refuses
        return False
    return len(shape) == 2 and shape[1] > 1


def joined(crowd: CrowdLabels, score: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The log-odds that the crowd's label is right, by the features, whose `score` is given, and by the answers.

    Given the true class, features and answers are taken as independent: their log-odds add up, less those of the class
    alone, which are in both.
    """
    own, rows = crowd.probabilities.argmax(axis=1), np.arange(len(score))
    share = crowd.probabilities.mean(axis=0)[own]
    return score + _log_odds(crowd.probabilities[rows, own]) - _log_odds(share)


def evidence(crowd: CrowdLabels, classes: np.ndarray) -> Float[np.ndarray, "n k"]:
    """P(the answers | true class) for these classes, times a number per row."""
    ratio = crowd.probabilities / crowd.probabilities.mean(axis=0)
    return ratio[:, np.isin(crowd.classes, classes)]


def _log_odds(p: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return np.log(np.maximum(p, _LEAST)) - np.log(np.maximum(1 - p, np.finfo(float).eps))


def _one_hot(table: np.ndarray) -> bool:
    return bool(np.isin(table, (0, 1)).all() and (table.sum(axis=1) == 1).all())


def judged(name: str, answers: Any, shrinkage: float = _SHRINKAGE) -> CrowdLabels:
    """`crowd_labels`, whose errors call the answers by this name."""
    (n, people), rows, columns, given = _read(name, answers)
    classes, labels = np.unique(given, return_inverse=True)
    if given.dtype.kind in "biu" and len(given) == n * people and _one_hot(given.reshape(n, people)):
        raise ValueError(
            f"{name}: each row has a single 1 among zeros, as one-hot labels have; pass its argmax(axis=1)"
        )
    k = len(classes)
    if k < 2:
        raise ValueError(f"{name}: got one class, {classes.tolist()[0]!r}; at least two classes are needed")
    # Column p·k + l of row i is 1 if person p answered l.
    said = scipy.sparse.csr_array((np.ones(len(rows)), (rows, columns * k + labels)), shape=(n, people * k))
    T = np.asarray(said @ np.tile(np.eye(k), (people, 1)))
    T = T / T.sum(axis=1, keepdims=True)
    confusion = np.empty((people, k, k))
    for _ in range(_MOST):
        N = (said.T @ T).reshape(people, k, k).transpose(0, 2, 1)
        together = N.sum(axis=0) + np.eye(k) + 1 / k
        together = together / together.sum(axis=1, keepdims=True)
        confusion = (N + shrinkage * together[None]) / (N.sum(2)[:, :, None] + shrinkage)
        prior = np.log(np.maximum(T.mean(axis=0), _LEAST))
        joint = prior[None, :] + said @ np.log(confusion).transpose(0, 2, 1).reshape(people * k, k)
        before, T = T, softmax(joint, axis=1)
        if np.abs(T - before).max() < _CHANGE:
            break
    return CrowdLabels(classes[T.argmax(axis=1)], T, classes, confusion)


def _read(name: str, answers: Any) -> tuple[tuple[int, int], Int[np.ndarray, " a"], Int[np.ndarray, " a"], np.ndarray]:
    """The shape, and of each answer that is there its row, its person and its label."""
    masked = np.ma.getmaskarray(answers) if isinstance(answers, np.ma.MaskedArray) else False
    try:
        array = np.asarray(answers) if isinstance(answers, np.ndarray) else np.asarray(answers, dtype=object)
    except ValueError as error:
        raise ValueError(f"{name}: is no table ({error}); pass rows × people") from error
    if array.ndim != 2:
        raise ValueError(f"{name}: got {array.ndim} axes; pass rows × people, one label per person or None")
    if array.dtype.kind == "f":
        missing = np.isnan(array)
    elif array.dtype == object:
        missing = np.vectorize(is_missing, otypes=[bool])(array) if array.size else np.zeros(array.shape, bool)
    else:
        missing = np.zeros(array.shape, bool)
    there = ~(missing | masked)
    empty = np.flatnonzero(~there.any(axis=1))
    if not len(there):
        raise ValueError(f"{name}: got no row")
    if len(empty):
        rows = f"row{'s' * (len(empty) > 1)} {', '.join(map(str, empty[:5]))}{', …' * (len(empty) > 5)}"
        raise ValueError(f"{name}: nobody labeled {rows} ({len(empty)} in all); leave them out")
    rows, columns = np.nonzero(there)
    given = array[there]
    if given.dtype == object:
        given = of_one_kind(name, given)
    if given.dtype.kind == "f" and np.isinf(given).any():
        raise ValueError(f"{name}: holds infinity, which is no label; where nobody answered, pass NaN or None")
    if given.dtype.kind == "f" and (given == np.floor(given)).all():
        given = given.astype(np.int64)
    return array.shape, rows, columns, given
