"""Files: JSON, CSV, their directory, and the environment that made them."""

import csv
import json
import math
import os
import pathlib
import platform
import tempfile
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np


def write_json(path: pathlib.Path, content: Any) -> None:
    """Strict JSON: numbers that are not finite become null, and types that JSON does not know become text."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [plain(part) for part in value]
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        return value if value is None or isinstance(value, str | int) else str(value)

    path.write_text(json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    """A table with one column for each key of any row."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def make_directory(out: str | pathlib.Path, argument: str = "out") -> pathlib.Path:
    """Make the directory and try to write there. Call it before a run whose result would be lost without it."""
    out = pathlib.Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        advice = "pass a directory that can be made and written"
        raise OSError(f"{argument}: cannot write to {out} ({error.strerror}); {advice}") from error
    return out


def _version(package: str) -> str | None:
    """None for a package that is not installed, such as a checkout on the path."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def environment() -> dict[str, Any]:
    """The versions of the packages, and the machine."""
    packages = ("bilevel", "jax", "jaxlib", "equinox", "optax", "numpy")
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "machine": platform.machine(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "backend": jax.default_backend(),
    }
