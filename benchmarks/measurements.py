"""Measurements in a CSV, a row each, so that a benchmark that was cut off goes on where it was."""

import csv


def read(path):
    """The rows, as text; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def measure_missing(path, keys, settings, measure):
    """`measure(*setting)` for each setting that the file lacks; written as soon as it is there."""
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
