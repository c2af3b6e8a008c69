"""What the few-shot figures of two papers share: data, network sizes and optimizers."""

from typing import Any

import optax

from bilevel.papers.claims import Threshold
from bilevel.papers.entry import Curve
from bilevel.solvers.itd import ITDBiO
from bilevel.solvers.maml import MAML
from bilevel.steps import Rule

_TASK = {"ways": 5, "shots": 5, "queries": 5}
SMALL = _TASK | {"dataset": "fc100", "tasks": 2, "filters": 8, "test_tasks": 40}
MEDIUM = _TASK | {"dataset": "fc100", "tasks": 4, "filters": 16, "test_tasks": 100}
FULL = _TASK | {"dataset": "fc100", "tasks": 32, "filters": 64, "test_tasks": 600}
TINY = {
    "fewshot": {
        "dataset": "glyphs", "tasks": 2, "filters": 2, "layers": 1, "queries": 2, "test_tasks": 4, "test_steps": 2,
    }
}  # fmt: skip

LAPTOP = "FC100, 2 tasks per step for 32, 8 filters for 64 (32 on miniImageNet), 40 test tasks, {}"
WORKSTATION = "FC100, 4 tasks per step for 32, 16 filters for 64 (32 on miniImageNet), 100 test tasks, {}"
PAPER = (
    "FC100, 32 tasks per step and 64 filters, as in the first draft of stocBiO's paper; 600 test tasks; {}, which the "
    "text at hand does not print"
)
NO_MINI = "The panel on miniImageNet, which is not to be had here. Its text is the same; what is checked is FC100."
STAND_IN = "; FC100 stands in for miniImageNet"
ALL_MINI = "The figure with its own data: it is of miniImageNet, which is not to be had here, and FC100 stands in."

# Chance is 0.2, and a nearest centroid on FC100's raw pixels has 0.357 (300 test tasks): a network that has learned
# features is above that.
LEARNED_AT = 0.4
LEARNED = Threshold("test accuracy", least=LEARNED_AT)


def adam(rate: float) -> Rule:
    return Rule(optax.adam, rate)


def episodes(common: dict[str, Any], steps: int, step: float, **more: Any) -> dict[str, Any]:
    """The test adapts in the same way as the method."""
    return common | {"test_steps": steps, "test_step": step} | more


def itd(label: str, common: dict[str, Any], upper: Any, steps: int, step: float) -> Curve:
    return Curve(label, "fewshot", episodes(common, steps, step), ITDBiO(upper, step, steps))


def anil(label: str, common: dict[str, Any], upper: Any, steps: int, step: float) -> Curve:
    return Curve(label, "fewshot", episodes(common, steps, step, learned_start=True), MAML(upper, step, steps))


def maml(label: str, common: dict[str, Any], upper: Any, steps: int, step: float) -> Curve:
    return Curve(label, "fewshot", episodes(common, steps, step, adapt="network"), MAML(upper, step, steps))
