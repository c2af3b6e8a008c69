"""The `bilevel` script: the command line, or how to get it."""

import sys


def main() -> None:
    """Run the command line, which needs the `experiments` extra."""
    try:
        import rich  # noqa: F401  # cli imports it only when it prints

        from bilevel.cli import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(f"bilevel: {error.name} is missing; install it with pip install 'bilevel[experiments]'")
    app()


if __name__ == "__main__":
    main()
