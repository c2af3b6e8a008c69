"""Write docs/reproduction.md and its figures from the kept runs in docs/reproduction, without running anything.

The words are those of docs/reproduction.toml. Each entry is shown at the largest size of which runs are kept.
"""

import pathlib
import tomllib

from bilevel.papers import ENTRIES, Outcome
from bilevel.papers.claims import RULE
from bilevel.papers.entry import SIZES, Entry
from bilevel.papers.figure import draw
from bilevel.papers.outcome import kept
from bilevel.papers.page import section, summary

DOCS = pathlib.Path(__file__).parent


def shown(entry: Entry, folder: pathlib.Path) -> Outcome:
    """The entry at the largest size of which all curves are kept; else the largest of which some are, or no runs."""
    found = [kept(entry, size, folder) for size in SIZES[1:] if size in entry.sizes]
    there = [outcome for outcome in found if outcome is not None]
    whole = [outcome for outcome in there if outcome.complete]
    return [Outcome(entry, "laptop", entry.sizes["laptop"]), *there, *whole][-1]


def reading(outcome: Outcome, readings: dict[str, dict[str, str]]) -> str:
    """What a person wrote of these runs.

    **Raises** `ValueError` if it was written of runs of another size.
    """
    name = outcome.entry.id
    written = readings.get(name)
    if written is None:
        return ""
    if not outcome.runs or written["size"] != outcome.size:
        runs = f"the page shows {outcome.size} size" if outcome.runs else "no runs are kept"
        raise ValueError(f"reproduction.toml: the reading of {name} is of {written['size']} size, but {runs}")
    return written["text"]


def text(docs: pathlib.Path) -> tuple[str, list[Outcome]]:
    """The page, and what it shows."""
    words = tomllib.loads((docs / "reproduction.toml").read_text(encoding="utf-8"))
    outcomes = [shown(entry, docs / "reproduction") for entry in ENTRIES.values()]
    parts = [words["before"].strip(), f"**How a claim is judged.** {RULE}", summary(outcomes)]
    for outcome in outcomes:
        figure = f"reproduction/{outcome.entry.id}.png"
        parts.append(section(outcome, figure, reading(outcome, words.get("readings", {}))).strip())
    return "\n\n".join([*parts, words["after"].strip()]) + "\n", outcomes


def main() -> None:
    page, outcomes = text(DOCS)
    folder = DOCS / "reproduction"
    folder.mkdir(exist_ok=True)
    for outcome in outcomes:
        picture = folder / f"{outcome.entry.id}.png"
        picture.unlink(missing_ok=True)
        if outcome.runs:
            draw(outcome).savefig(picture, dpi=110)
    (DOCS / "reproduction.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
