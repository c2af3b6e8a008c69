"""Small problems and data sets that the tests share."""

import jax
import jax.numpy as jnp
import numpy as np

import bilevel as bl
from bilevel import datasets


class Quadratic:
    """g = ½ yᵀAy − yᵀBx and f = ½‖y − c‖² + ½‖x‖², with A's eigenvalues spread from mu to L.

    y*(x) = A⁻¹Bx and ∇Φ(x) = x + BᵀA⁻¹(y*(x) − c).
    """

    def __init__(self, mu=0.5, L=4.0, dim=6, x_dim=3, seed=0):
        rng = np.random.default_rng(seed)
        self.mu, self.L, self.dim = mu, L, dim
        self.eigenvalues = np.linspace(mu, L, dim)
        self.eigenvectors = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
        self.A = self.eigenvectors * self.eigenvalues @ self.eigenvectors.T
        self.B, self.c = rng.normal(size=(dim, x_dim)), rng.normal(size=dim)
        self.x, self.b = rng.normal(size=x_dim), rng.normal(size=dim)
        self.problem = bl.Problem(upper=bl.Level(self.f), lower=bl.Level(self.g))

    def f(self, x, y, _):
        return 0.5 * jnp.sum((y - self.c) ** 2) + 0.5 * jnp.sum(x**2)

    def g(self, x, y, _):
        return 0.5 * y @ (self.A @ y) - y @ (self.B @ x)

    def y_star(self, x):
        return np.linalg.solve(self.A, self.B @ x)

    def hypergradient(self, x):
        return x + self.B.T @ np.linalg.solve(self.A, self.y_star(x) - self.c)

    @property
    def x_star(self):
        M = np.linalg.solve(self.A, self.B)
        return np.linalg.solve(np.eye(len(self.x)) + M.T @ M, M.T @ self.c)


class Recorder(bl.Rows):
    """Rows that append the indices of every draw to a list; for use under `jax.disable_jit()`."""

    draws: list | None = None

    def __init__(self, arrays):
        super().__init__(arrays)
        self.draws = []

    def draw(self, key, size):
        batch = super().draw(key, size)
        self.draws.append(np.asarray(batch.indices))
        return batch


def point(task, seed=3):
    """An (x, y) of a task where nothing is zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), (task.x, task.y))


def numbered_texts(labels, domains, names, groups):
    """A set whose texts say which row they are: its digits, and a word that no other row has."""
    texts = tuple(" ".join(f"{row:03d}") + f" row{row}" for row in range(len(labels)))
    labels, domains, groups = (np.asarray(part, np.int32) for part in (labels, domains, groups))
    return datasets.TextDataset(texts, labels, domains, names, groups, classes=2)


def numbers(tokens, vocabulary):
    """The rows of `numbered_texts`, from their first three tokens."""
    digits = np.zeros(max(vocabulary.values()) + 1, int)
    for digit in range(10):
        digits[vocabulary[str(digit)]] = digit
    return digits[np.asarray(tokens)[..., :3]] @ [100, 10, 1]


def rows_known(vocabulary):
    """The rows of `numbered_texts` whose words a vocabulary holds."""
    return [int(word.removeprefix("row")) for word in vocabulary if word.startswith("row")]


def tagged_set(rows=400):
    """A set whose feature 0 is the row's number, over 1000."""
    rng = np.random.default_rng(0)
    features = rng.random((rows, 6), np.float32)
    features[:, 0] = np.arange(rows) / 1000
    labels = rng.integers(0, 4, rows).astype(np.int32)
    return datasets.Dataset(features, labels, 4, rows)


def tags(features):
    """The rows of `tagged_set`, from their features."""
    return np.rint(np.asarray(features)[:, 0] * 1000).astype(int)


def identical(a, b):
    """Two trees are equal, bit for bit."""
    jax.tree.map(lambda u, v: np.testing.assert_array_equal(np.asarray(u), np.asarray(v)), a, b)
