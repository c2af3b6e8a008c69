"""Finished runs on disk, found again by a description of what determined them, and by the versions."""

import hashlib
import json
import math
import os
import pathlib
import shutil
from dataclasses import asdict
from typing import Any

from bilevel._output.files import make_directory, strict, write_json
from bilevel.compare.records import Run
from bilevel.run._identity import versions


class Store:
    """Runs on disk, one file per description `about`: what it leaves out, such as the numbers in the middle of a long
    NumPy array, does not tell runs apart."""

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
