"""Finished runs on disk, found again by everything that determined them, versions included."""

import hashlib
import json
import math
import os
import pathlib
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bilevel._output.files import make_directory, strict, write_json
from bilevel.compare.records import Run
from bilevel.run._identity import fingerprint, versions
from bilevel.solvers.base import AbstractSolver
from bilevel.tasks import Task
from bilevel.tasks.registry import AskedTask


class Store:
    """Runs on disk, one file per description: runs with other settings are in other files."""

    def __init__(self, folder: pathlib.Path, argument: str = "out"):
        self.folder = make_directory(folder, argument)

    def _path(self, about: dict[str, Any]) -> pathlib.Path:
        text = json.dumps(about | {"versions": versions()}, sort_keys=True, default=str)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"

    def find(self, about: dict[str, Any]) -> list[Run] | None:
        """The runs, or None if their file is missing, incomplete or damaged."""
        try:
            content = json.loads(self._path(about).read_text(encoding="utf-8"))
            if _checksum(content["runs"]) != content["sha256"]:
                return None
            return [Run(**{**run, "rows": [_numbers(row) for row in run["rows"]]}) for run in content["runs"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, about: dict[str, Any], runs: list[Run]) -> None:
        path = self._path(about)
        part = path.with_suffix(".part")
        content = strict([asdict(run) for run in runs])
        about = about | {"versions": versions()}
        write_json(part, {"about": about, "runs": content, "sha256": _checksum(content)})
        os.replace(part, path)  # so that no one reads an incomplete file
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)

    def underway(self, about: dict[str, Any]) -> pathlib.Path:
        """The folder for checkpoints of the runs until they are done."""
        return self._path(about).with_suffix("")


def _checksum(runs: list[Any]) -> str:
    return hashlib.sha256(json.dumps(runs, sort_keys=True).encode()).hexdigest()


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    """Restore NaN, which JSON does not have, for numbers that were not finite."""
    return {name: math.nan if value is None else value for name, value in row.items()}


def code(task: AskedTask, made: Sequence[Task], solver: Any) -> dict[str, Any]:
    """What tells runs with code of the user's apart: hashes of its files and of the arrays of the tasks."""
    kind = type(solver) if isinstance(solver, AbstractSolver) else solver
    found: dict[str, Any] = {"solver's file": _file_of(kind)}
    if not task.of_the_package:
        found["task's file"] = _file_of(task.made.metrics if isinstance(task.made, Task) else task.made)
        found["problems"] = [fingerprint(one.problem, one.x, one.y) for one in made]
    return {name: value for name, value in found.items() if value is not None}


def _file_of(thing: Any) -> str | None:
    """A hash of the file that defines it; None for the package's own, and if there is no file."""
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    path = pathlib.Path(getattr(module, "__file__", None) or "")
    if module is None or module.__name__.startswith("bilevel.") or not path.is_file():
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
