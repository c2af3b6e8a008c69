"""Which of my labels are wrong? A table with doubtful labels, and a few rows that can be trusted.

    python examples/noisy_labels.py

Replace `doubtful` and `trusted` by your own arrays. The model is multinomial logistic regression, but any
differentiable model and loss will work.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import bilevel as bl

# Digits, 60 % of whose labels are redrawn at random, and 100 rows that someone has checked.
features, labels = load_digits(return_X_y=True)
features, labels = (features / 16).astype(np.float32), labels.astype(np.int32)
rng = np.random.default_rng(0)
order = rng.permutation(len(labels))
checked, rest = order[:100], order[100:]
given = np.where(rng.random(len(rest)) < 0.6, rng.integers(10, size=len(rest)), labels[rest])
doubtful = {"features": features[rest], "labels": given.astype(np.int32)}
trusted = {"features": features[checked], "labels": labels[checked]}


def cross_entropy(model, batch):
    logits = batch["features"] @ model["weights"] + model["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])


def lower_loss(x, model, batch):
    """Train on the doubtful rows with weights σ(x_i). `x` holds the entries of the batch."""
    penalty = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(model))
    return jnp.mean(jax.nn.sigmoid(x) * cross_entropy(model, batch)) + 1e-3 * penalty


def upper_loss(x, model, batch):
    """Judge the trained model by the trusted rows."""
    return jnp.mean(cross_entropy(model, batch))


def main():
    problem = bl.Problem(
        upper=bl.Level(upper_loss, data=trusted, batch_size=64),
        lower=bl.Level(lower_loss, data=doubtful, batch_size=64, per_row=True),
    )
    solver = bl.SOBA(upper_step=10.0, lower_step=0.1, adjoint_step=0.1)
    x, model = jnp.zeros(len(rest)), {"weights": jnp.zeros((64, 10)), "bias": jnp.zeros(10)}
    solution = bl.solve(problem, solver, x, model, steps=8_000, key=jax.random.key(0))

    suspects = np.argsort(solution.x)  # most doubtful first
    wrong = given != labels[rest]
    print(f"{wrong.mean():.0%} of all labels are wrong")
    print(f"{wrong[suspects[:500]].mean():.0%} of the 500 most doubtful labels are wrong")
    for row in suspects[:5]:
        print(f"row {rest[row]}: label {given[row]}, true class {labels[rest][row]}")
    return wrong[suspects[:500]].mean()


if __name__ == "__main__":
    main()
