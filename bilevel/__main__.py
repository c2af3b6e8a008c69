"""The `bilevel` script: the command line, or how to get it."""

import sys

from bilevel import _checks as checks


def main() -> None:
    """Run the command line; where an extra is missing, say in one line which."""
    try:
        checks.require("rich", "typer", extra="cli")
        from bilevel.cli import app

        app()
    except checks.MissingExtraError as error:
        sys.exit(f"bilevel: {error}")


if __name__ == "__main__":
    main()
