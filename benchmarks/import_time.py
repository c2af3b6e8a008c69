"""`import bilevel` against `import jax, optax, equinox`: the median ratio over interleaved pairs of processes.

python benchmarks/import_time.py --pairs 21
"""

import argparse
import statistics
import subprocess
import sys
import time


def seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=21)
    pairs = parser.parse_args().pairs
    ours, theirs = "import bilevel", "import jax, optax, equinox"
    seconds(ours), seconds(theirs)
    times = [(seconds(ours), seconds(theirs)) for _ in range(pairs)]
    ratio = statistics.median(a / b for a, b in times)
    print(f"import bilevel {statistics.median(a for a, _ in times):.2f} s, {ratio:.2f} times {theirs}")


if __name__ == "__main__":
    main()
