"""Bring your own network: which labels are wrong, judged by a small network in Equinox, then in Flax NNX.

    python examples/own_network.py

y may be any pytree. An Equinox module is one already, and `nnx.split` turns a Flax NNX module into one. The rest of the
problem does not change: here, digits with one weight per row, 60 % of whose labels were redrawn at random.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import bilevel as bl

features, labels = load_digits(return_X_y=True)
features, labels = (features / 16).astype(np.float32), labels.astype(np.int32)
rng = np.random.default_rng(0)
order = rng.permutation(len(labels))
checked, doubtful, test = np.split(order, [200, 1300])
given = np.where(rng.random(len(doubtful)) < 0.6, rng.integers(10, size=len(doubtful)), labels[doubtful])
wrong = given != labels[doubtful]


def in_equinox():
    """The initial network, and the function (network, features) ↦ logits."""
    network = eqx.nn.MLP(64, 10, width_size=64, depth=1, key=jax.random.key(0))
    return network, lambda network, rows: jax.vmap(network)(rows)


class Network(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.out = nnx.Linear(64, 64, rngs=rngs), nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, rows):
        return self.out(nnx.relu(self.hidden(rows)))


def in_nnx():
    graph, parameters = nnx.split(Network(nnx.Rngs(0)))
    return parameters, lambda parameters, rows: nnx.merge(graph, parameters)(rows)


def problem_of(logits):
    def cross_entropy(y, batch):
        return optax.softmax_cross_entropy_with_integer_labels(logits(y, batch["features"]), batch["labels"])

    def lower_loss(x, y, batch):
        penalty = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(eqx.filter(y, eqx.is_inexact_array)))
        return jnp.mean(jax.nn.sigmoid(x) * cross_entropy(y, batch)) + 1e-3 * penalty

    def upper_loss(x, y, batch):
        return jnp.mean(cross_entropy(y, batch))

    rows = {"features": features[doubtful], "labels": given.astype(np.int32)}
    trusted = {"features": features[checked], "labels": labels[checked]}
    return bl.Problem(
        upper=bl.Level(upper_loss, data=trusted, batch_size=64),
        lower=bl.Level(lower_loss, data=rows, batch_size=64, per_row=True),
    )


def main():
    found = {}
    for name, (y, logits) in {"Equinox": in_equinox(), "Flax NNX": in_nnx()}.items():
        solver = bl.SOBA(upper_step=30.0, lower_step=0.1, adjoint_step=0.03)
        # `signs=False`: a network's loss is not convex in its weights, of which `solve` would warn
        solution = bl.solve(
            problem_of(logits), solver, jnp.zeros(len(doubtful)), y, steps=3_000, key=jax.random.key(0), signs=False
        )
        suspects = np.argsort(solution.x)  # most doubtful first
        accuracy = np.mean(np.argmax(logits(solution.y, features[test]), axis=-1) == labels[test])
        found[name] = wrong[suspects]
        share = found[name][:400].mean()
        print(f"{name}: {share:.0%} of the 400 most doubtful labels are wrong, {wrong.mean():.0%} of all")
        print(f"{name}: test accuracy of the network that was trained along the way {accuracy:.3f}")
    return found


if __name__ == "__main__":
    main()
