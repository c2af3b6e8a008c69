"""Write docs/reproduction.md and its figures from finished runs: `python docs/build_reproduction.py RUNS`.

The words are those of docs/reproduction.toml, the numbers those of the runs, which are judged anew and not made again.
An entry that is not judged needs no runs: its section says why.
"""

import pathlib
import shutil
import sys
import tomllib

from bilevel.papers import ENTRIES, Outcome, reproduce
from bilevel.papers.page import not_run, section, summary

DOCS = pathlib.Path(__file__).parent


def main(runs: str) -> None:
    words = tomllib.loads((DOCS / "reproduction.toml").read_text(encoding="utf-8"))
    judged = [name for name, entry in ENTRIES.items() if not entry.not_judged]
    found = {outcome.entry.id: outcome for outcome in reproduce(judged, scale="laptop", out=runs, resume=True)}
    outcomes: list[Outcome] = [found.get(name) or not_run(entry, "laptop") for name, entry in ENTRIES.items()]
    parts = [words["before"].strip(), summary(outcomes), words["between"].strip()]
    for outcome in outcomes:
        name = outcome.entry.id
        if outcome.entry.not_judged:
            parts.append(section(outcome).strip())
            continue
        shutil.copy(pathlib.Path(runs) / name / "figure.png", DOCS / "reproduction" / f"{name}.png")
        text = section(outcome, figure=f"reproduction/{name}.png")
        head, rest = text.split("\n\n*Basis of the claim.*", 1)
        parts.append(
            f"{head}\n\n**Reading.** {words['readings'][name].strip()}\n\n*Basis of the claim.*{rest.rstrip()}"
        )
    parts.append(words["after"].strip())
    (DOCS / "reproduction.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
