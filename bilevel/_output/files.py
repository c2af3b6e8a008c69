"""Files: JSON, CSV, their directory, and the environment that made them."""

import csv
import json
import math
import os
import pathlib
import platform
import re
import tempfile
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np


def strict(content: Any) -> Any:
    """The content as JSON has it: numbers that are not finite become null, and types that JSON does not know text."""
    if isinstance(content, dict):
        return {str(key): strict(part) for key, part in content.items()}
    if isinstance(content, list | tuple):
        return [strict(part) for part in content]
    if isinstance(content, np.generic):
        content = content.item()
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    return content if content is None or isinstance(content, str | int) else str(content)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Write `strict` JSON."""
    text = json.dumps(strict(content), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def write_csv(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    """A table with one column for each key of any row."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def local_directory(path: Any, argument: str) -> pathlib.Path:
    """The path of a directory on this machine, with `~` expanded. It need not exist.

    **Raises** `TypeError` or `ValueError`, naming the argument, for what is no path, and for a URL: as a path,
    `s3://bucket` would be a folder named `s3:` here.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f"{argument}: got {path!r}; pass the path of a directory, as text or a pathlib.Path")
    if not text or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise ValueError(
            f"{argument}: got {text!r}; pass a directory on this machine, without a scheme such as file:// or s3:// (a "
            "bucket can be mounted, or the directory copied there later)"
        )
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError as error:  # ~somebody who has no home here
        raise ValueError(f"{argument}: got {text!r} ({error}); write the path without ~") from None


def make_directory(out: str | os.PathLike[str], argument: str = "out") -> pathlib.Path:
    """Make the directory and try to write there. Call it before a run whose result would be lost without it.

    **Raises** `OSError` naming the argument, and what `local_directory` raises.
    """
    out = local_directory(out, argument)
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


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment() -> dict[str, Any]:
    """The versions of the packages, and the machine."""
    packages = ("bilevel", "jax", "jaxlib", "equinox", "optax", "numpy")
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "machine": platform.machine(),
        "system": platform.platform(),
        "cores": cores(),
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
    }
