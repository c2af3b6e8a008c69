"""Memory and time of the whole command `bilevel clean` on a large table of numbers.

    python benchmarks/clean_memory.py                       # 10⁶ rows × 100 columns, about 800 MB on disk
    python benchmarks/clean_memory.py --rows 100000 --suffix parquet

It makes the table in a temporary folder: 5 classes around random centers, 20 % of the labels redrawn, 1,000 trusted
rows. It prints the peak resident memory of the process, its seconds, and how well it ranks the wrong labels (AUROC).
"""

import argparse
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.metrics import roc_auc_score

CLASSES, NOISE, TRUSTED, CHUNK = 5, 0.2, 1_000, 20_000


def frame(rng, centers, rows):
    """Rows with their true labels."""
    labels = rng.integers(CLASSES, size=rows)
    values = centers[labels] + rng.normal(size=(rows, centers.shape[1]))
    return pd.DataFrame(values.round(4), columns=[f"c{i}" for i in range(centers.shape[1])]), labels


def write_tables(folder, rows, columns, suffix):
    """The two tables, and whether each row's label is wrong."""
    rng = np.random.default_rng(0)
    centers, wrong = rng.normal(size=(CLASSES, columns)) * 1.5 / columns**0.5, []
    checked, labels = frame(rng, centers, TRUSTED)
    checked.assign(label=labels).to_csv(folder / "trusted.csv", index=False)
    path, writer = folder / f"table.{suffix}", None
    for start in range(0, rows, CHUNK):
        part, labels = frame(rng, centers, min(CHUNK, rows - start))
        given = np.where(rng.random(len(labels)) < NOISE, rng.integers(CLASSES, size=len(labels)), labels)
        wrong.append(given != labels)
        part = part.assign(label=given)
        if suffix == "csv":
            part.to_csv(path, index=False, header=not start, mode="a")
            continue
        batch = pa.Table.from_pandas(part, preserve_index=False)
        writer = writer or pq.ParquetWriter(path, batch.schema)
        writer.write_table(batch)
    if writer:
        writer.close()
    return path, np.concatenate(wrong)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--suffix", choices=("csv", "parquet"), default="csv")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        path, wrong = write_tables(folder, chosen.rows, chosen.columns, chosen.suffix)
        command = [sys.executable, "-m", "bilevel", "clean", str(path), "--label", "label"]
        command += ["--trusted", str(folder / "trusted.csv"), "--out", str(folder / "out")]
        start = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        cleaned = folder / "out" / f"cleaned.{chosen.suffix}"
        read = pd.read_parquet if chosen.suffix == "parquet" else pd.read_csv
        weights = read(cleaned, **{"columns" if read is pd.read_parquet else "usecols": ["bilevel_weight"]})
        print(
            f"{chosen.rows:,} rows × {chosen.columns} columns, {path.stat().st_size / 1e6:,.0f} MB of {chosen.suffix}: "
            f"{peak:.2f} GB at most, {seconds:.0f} s; AUROC of the wrong labels {roc_auc_score(wrong, -weights):.3f}"
        )


if __name__ == "__main__":
    main()
