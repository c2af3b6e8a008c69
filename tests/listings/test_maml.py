"""MAML and ANIL: the derivative of the adapted loss."""

import numpy as np
import pytest

from .dense import close, numerical
from .maml import Features, Logistic, anil, maml, run

DIM, HEAD = 4, 3
DRAWN = [[3, 0, 3], [1, 2, 5]]


def flat(x):
    return np.concatenate([part.ravel() for part in x]) if isinstance(x, tuple) else x


@pytest.mark.parametrize("form", ["maml", "anil"])
def test_the_step_is_the_derivative_of_the_mean_adapted_loss(rng, form):
    """Second derivatives, and ANIL's way through the features of the lower loop, included."""
    loss, listing = {"maml": (Logistic, maml), "anil": (Features, anil)}[form]
    labels = [np.where(rng.normal(size=n) > 0, 1.0, -1.0) for n in (5, 6) * 6]
    losses = [loss(rng.normal(size=(len(b), DIM)), b, 0.1) for b in labels]
    tasks = list(zip(losses[::2], losses[1::2], strict=True))
    at = rng.normal(size=DIM if form == "maml" else HEAD * DIM + HEAD)

    def split(x):
        return x if form == "maml" else (x[:-HEAD].reshape(HEAD, DIM), x[-HEAD:])

    def adapted(x, chosen):
        values = []
        for support, query in (tasks[i] for i in chosen):
            W, y = ((), split(x)) if form == "maml" else ((split(x)[0],), split(x)[1])
            for _ in range(3):
                y = y - 0.4 * (support.gradient(y) if form == "maml" else support.gradient_y(*W, y))
            values.append(query.value(*W, y))
        return np.mean(values)

    states = run(listing(tasks, split(at), DRAWN, alpha=0.4, D=3), split(at), DRAWN, beta=lambda k: 0.5 / (k + 1))
    for k, state in enumerate(states):
        after = at - 0.5 / (k + 1) * numerical(lambda x, k=k: adapted(x, DRAWN[k]), at)
        close(flat(state["x"]), after, 1e-8)
        at = flat(state["x"])
