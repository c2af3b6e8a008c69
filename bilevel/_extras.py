"""What is installed. Without JAX, so that `bilevel --help` is there at once."""

import importlib.util


class MissingExtraError(ModuleNotFoundError):
    """A package that an extra provides is not installed."""


def require(*packages: str, extra: str) -> None:
    """Check that packages, given by their import names, are installed, before the work that needs them.

    **Raises** `MissingExtraError`, which names the extra to install.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise MissingExtraError(f"not installed: {', '.join(missing)}; pip install 'bilevel[{extra}]'", name=missing[0])
