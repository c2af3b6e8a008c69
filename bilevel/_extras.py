"""What is installed. Without JAX, so that `bilevel --help` is there at once."""

import importlib.util
import json
import pathlib
import urllib.parse
from importlib import metadata


class MissingExtraError(ModuleNotFoundError):
    """A package that an extra provides is not installed."""


def require(*packages: str, extra: str) -> None:
    """Check that packages, given by their import names, are installed, before the work that needs them.

    **Raises** `MissingExtraError`, which names the extra to install.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise MissingExtraError(f"not installed: {', '.join(missing)}; {install(extra)}", name=missing[0])


def install(extra: str) -> str:
    """The command that installs an extra: from the folder that the package was installed from, if it was one."""
    return f"pip install '{_source()}[{extra}]'"


def _source() -> str:
    try:
        origin = json.loads(metadata.distribution("bilevel").read_text("direct_url.json") or "{}")
    except metadata.PackageNotFoundError:
        origin = {}
    address = urllib.parse.urlparse(origin.get("url", ""))
    if address.scheme != "file" or "dir_info" not in origin:
        return "bilevel"
    folder = pathlib.Path(urllib.parse.unquote(address.path))
    return str(folder) if folder.is_dir() else "bilevel"
