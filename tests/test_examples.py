"""The examples and the README's snippets run, with the output that they show."""

import re
import runpy
import tempfile
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def users_losses_may_broadcast():
    with jax.numpy_rank_promotion("allow"):
        yield


def example(name):
    return runpy.run_path(str(ROOT / "examples" / name))["main"]()


def test_every_example_is_run_here():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == {
        "clean_a_table.py",
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
