"""Which labels of a table are wrong? From a CSV file to the rows to look at, in one call.

    python examples/clean_a_table.py

The same from a shell, with your own files:

    bilevel clean table.csv --label digit --trusted trusted.csv --out cleaned

The data are handwritten digits, 30 % of whose labels are redrawn at random, and 100 rows that someone has checked. The
table has a column of paths to images, which the report shows. The features are the pixel columns.
"""

import pathlib
import tempfile

import matplotlib.image
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from sklearn.datasets import load_digits

from bilevel.clean import clean_table


def write_tables(folder):
    """Write table.csv, trusted.csv and images/. Return the true labels of the table's rows."""
    pixels, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))
    (folder / "images").mkdir()
    for i in order:
        matplotlib.image.imsave(folder / "images" / f"{i}.png", 16 - pixels[i].reshape(8, 8), cmap="gray")
    whole = pd.DataFrame(pixels.astype(int), columns=[f"pixel{i}" for i in range(64)])
    whole.insert(0, "image", [f"images/{i}.png" for i in range(len(whole))])
    trusted, table = whole.iloc[order[:100]], whole.iloc[order[100:]]
    truth = labels[order[100:]]
    given = np.where(rng.random(len(truth)) < 0.3, rng.integers(10, size=len(truth)), truth)
    trusted.assign(digit=labels[order[:100]]).to_csv(folder / "trusted.csv", index=False)
    table.assign(digit=given).to_csv(folder / "table.csv", index=False)
    return truth


def draw(folder):
    """Draw the 24 most doubtful rows."""
    table = pd.read_csv(folder / "cleaned" / "cleaned.csv").sort_values("bilevel_rank")
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (_, row) in zip(figure.subplots(3, 8).flat, table.iterrows(), strict=False):
        axes.imshow(matplotlib.image.imread(folder / row["image"]))
        axes.set_title(f"{row['digit']} → {row['bilevel_label']}", fontsize=10)
        axes.set_axis_off()
    figure.suptitle("The most doubtful rows: label in the table → proposed label")
    figure.savefig(folder / "doubtful.png", dpi=120)


def main(folder=None):
    folder = pathlib.Path(folder or tempfile.mkdtemp(prefix="clean-a-table-"))
    truth = write_tables(folder)
    cleaned = clean_table(
        folder / "table.csv",
        label="digit",
        trusted=folder / "trusted.csv",
        out=folder / "cleaned",
        console=Console(),
    )
    draw(folder)
    given, proposed = (np.array(cleaned.classes, int)[codes] for codes in (cleaned.given, cleaned.proposed))
    most_doubtful = np.argsort(cleaned.ranks)[:200]
    found = (given != truth)[most_doubtful].mean()
    print(f"{(given != truth).mean():.0%} of all labels are wrong, and {found:.0%} of the 200 most doubtful ones")
    print(
        f"{(proposed == truth).mean():.0%} of the proposed labels are right; {(given == truth).mean():.0%} were before"
    )
    print(f"Look at {folder / 'cleaned' / 'report.html'} and {folder / 'doubtful.png'}")
    return found


if __name__ == "__main__":
    main()
