"""The examples and the README's snippets run, with the output that they show."""

import os
import re
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def users_losses_may_broadcast():
    with jax.numpy_rank_promotion("allow"):
        yield


def example(name, **options):
    return runpy.run_path(str(ROOT / "examples" / name))["main"](**options)


def test_every_example_is_run_here():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == {
        "clean_a_table.py",
        "data_mixture.py",
        "few_shot.py",
        "noisy_labels.py",
        "own_network.py",
        "own_outer_loop.py",
        "ten_thousand_penalties.py",
    }


def test_clean_a_table_finds_wrong_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert example("clean_a_table.py") > 0.9
    assert {path.suffix for path in tmp_path.glob("*/*")} == {"", ".csv", ".png"}


def test_noisy_labels_finds_wrong_ones():
    assert example("noisy_labels.py") > 0.9


def test_own_networks_find_wrong_ones():
    found = example("own_network.py")
    assert set(found) == {"Equinox", "Flax NNX"}
    assert min(wrong[:400].mean() for wrong in found.values()) > 0.9


def test_own_outer_loop_lowers_the_validation_loss():
    losses = example("own_outer_loop.py")
    assert losses[-1] < losses[0] - 0.001


def test_ten_thousand_penalties_beat_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scores = example("ten_thousand_penalties.py")
    assert scores["many"] > 0.7 > 0.3 > scores["one"]
    assert [path.name for path in tmp_path.glob("*/*")] == ["penalties.png"]


def test_few_shot_learns_to_read_new_scripts():
    accuracies = example("few_shot.py")
    assert accuracies[-1] > max(0.6, accuracies[0] + 0.2)


SMALL = dict(steps=4, every=2, batch_size=8, rows=64, width=16, layers=1)
ON_EIGHT = f"""
import runpy, sys
import numpy as np
solution = runpy.run_path(sys.argv[1])["main"](**{SMALL}, out=sys.argv[2])
assert len(solution.x.sharding.device_set) == 8
np.save(sys.argv[2] + "/x.npy", solution.x)
"""


def test_data_mixture_is_one_run_on_one_device_and_on_eight(tmp_path):
    one = example("data_mixture.py", **SMALL, out=tmp_path / "one")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["weights.png"]
    assert one.history["test loss"][-1] < one.history["test loss"][0]
    subprocess.run(
        [sys.executable, "-c", ON_EIGHT, str(ROOT / "examples" / "data_mixture.py"), str(tmp_path)],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    assert np.abs(one.x).max() > 0.05
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), one.x, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_data_mixture_ranks_the_garbage_last(seed, tmp_path):
    weights = example("data_mixture.py", seed=seed, batch_size=64, out=tmp_path).history.rows[-1]
    assert weights["step"] == 200
    garbage = [weights[name] for name in ("random bytes", "shuffled bytes")]
    assert max(garbage) < min(weights[name] for name in ("help pages", "docstrings", "code"))


def snippets(page="README.md"):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def test_the_readme_is_one_program_that_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in snippets():
        exec(compile(code, "README.md", "exec"), names)
    assert names["solution"].result == names["bl"].RESULTS.successful
    assert "adjoint not solved" in {finding.name for finding in names["report"].findings}
    assert (tmp_path / "report.png").exists()


def test_the_page_for_users_of_optimistix_is_one_program_that_runs():
    pytest.importorskip("optimistix")
    names = {}
    for code in snippets("docs/from_optimistix.md"):
        exec(compile(code, "from_optimistix.md", "exec"), names)
    assert 0 < len(names["kept"]) < 5


def test_the_page_for_users_of_jaxopt_is_one_program_that_runs():
    names = {}
    for code in snippets("docs/from_jaxopt.md"):
        exec(compile(code, "from_jaxopt.md", "exec"), names)
    start, *_, by_adam = (float(loss) for loss in names["losses"])
    assert by_adam < 0.9 * start
    assert by_adam == pytest.approx(float(names["value"]), rel=0.01)  # by L-BFGS
