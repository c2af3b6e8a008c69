"""Read a script never seen before, from five examples of each letter.

    python examples/few_shot.py

The upper variable is the body of a network, learned on Latin, Greek, Kana and others. The lower variable is a linear
head for each task. Every outer step draws fresh tasks (`bl.Episodes`). Test tasks use Devanagari, Arabic and Telugu.
"""

import jax
import optax

import bilevel as bl
from bilevel import tasks


def main():
    task = tasks.fewshot("glyphs", ways=5, shots=5, tasks=4, test_tasks=40)
    solver = bl.ITDBiO(upper_step=bl.Rule(optax.adam, 0.005), lower_step=0.1, inner_steps=10)
    solution = bl.solve(
        task.problem, solver, task.x, task.y, steps=100, every=25, metrics=task.metrics, key=jax.random.key(0)
    )
    for row in solution.history.rows:
        print(f"step {row['step']:4}   accuracy on new scripts {row['test accuracy']:.3f}   chance 0.200")
    return solution.history["test accuracy"]


if __name__ == "__main__":
    main()
