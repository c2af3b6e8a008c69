"""The `bilevel` script: the command line, or a message that says how to install it."""

import os
import sys

from bilevel import _extras as extras


def main() -> None:
    """Run the command line. If an extra is missing, name it in one line."""
    try:
        extras.require("platformdirs", "rich", "typer", extra="cli")
        _keep_programs()
        from bilevel.cli import app

        app()
    except extras.MissingExtraError as error:
        sys.exit(f"bilevel: {error}")


def _keep_programs() -> None:
    """Keep compiled programs in the user's cache, small ones too, unless JAX's own variables say otherwise."""
    import platformdirs

    directory = platformdirs.user_cache_path("bilevel") / "programs"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(directory))  # before JAX is imported
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


if __name__ == "__main__":
    main()
