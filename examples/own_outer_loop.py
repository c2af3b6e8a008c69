"""Your own outer loop: one L2 penalty per feature of a ridge regression, tuned by any optimizer.

    python examples/own_outer_loop.py

`bl.hypergradient` is useful without a solver: here the lower problem is solved exactly, and Adam from optax
moves the upper variable.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

import bilevel as bl

features, target = load_diabetes(return_X_y=True)
features, target = features / features.std(axis=0), (target - target.mean()) / target.std()
parts = train_test_split(features, target, test_size=0.5, random_state=0)
X_train, X_valid, t_train, t_valid = (jnp.asarray(part, jnp.float32) for part in parts)


def validation_loss(x, w, batch):
    return jnp.mean((batch["X"] @ w - batch["t"]) ** 2) / 2


def training_loss(x, w, batch):
    return validation_loss(x, w, batch) + jnp.sum(jnp.exp(x) * w**2) / 2


problem = bl.Problem(
    upper=bl.Level(validation_loss, data={"X": X_valid, "t": t_valid}),
    lower=bl.Level(training_loss, data={"X": X_train, "t": t_train}),
)


@jax.jit
def ridge(x):
    hessian = X_train.T @ X_train / len(X_train) + jnp.diag(jnp.exp(x))
    return jnp.linalg.solve(hessian, X_train.T @ t_train / len(X_train))


def main():
    x = jnp.full(10, -3.0)
    optimizer = optax.adam(0.1)
    state = optimizer.init(x)
    losses = []
    for _ in range(100):
        w = ridge(x)
        losses.append(float(validation_loss(x, w, {"X": X_valid, "t": t_valid})))
        gradient = bl.hypergradient(problem, x, w, method=bl.Direct())
        update, state = optimizer.update(gradient, state)
        x = optax.apply_updates(x, update)
    print(f"validation loss {losses[0]:.4f} -> {losses[-1]:.4f}")
    print("penalties:", np.array2string(np.exp(np.asarray(x)), precision=3))
    return losses


if __name__ == "__main__":
    main()
