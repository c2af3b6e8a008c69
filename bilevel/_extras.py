"""What is installed. Without JAX, so that `bilevel --help` is there at once."""

import importlib.util


class MissingExtraError(ModuleNotFoundError):
    """A package of an extra is not installed."""


def require(*packages: str, extra: str) -> None:
    """Ask for packages, by the names they are imported by, before the work that needs them.

    **Raises** `MissingExtraError`, which names the extra to install.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise MissingExtraError(f"not installed: {', '.join(missing)}; pip install 'bilevel[{extra}]'", name=missing[0])
