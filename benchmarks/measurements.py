"""Measurements in a CSV, one per row, so that an interrupted benchmark can resume."""

import csv


def read(path):
    """The rows, as text; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def measure_missing(path, keys, settings, measure):
    """Call `measure(*setting)` for each setting that is not in the file, and write each result at once."""
    done = {tuple(row[key] for key in keys) for row in read(path)}
    for setting in settings:
        if tuple(map(str, setting)) in done:
            continue
        row = measure(*setting)
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(*row.values(), flush=True)
