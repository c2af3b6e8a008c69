"""The command line from a user's point of view."""

import json
import re
import sys
import tomllib
from importlib.metadata import EntryPoint

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import bilevel as bl
from bilevel import _extras as extras
from bilevel import datasets, tasks
from bilevel.cli import app
from bilevel.compare import _compare as compare_module


@pytest.fixture
def call():
    runner = CliRunner(env={"COLUMNS": "100"})
    return lambda *arguments: runner.invoke(app, list(arguments))


def test_help_and_no_arguments(call):
    assert call("--help").exit_code == 0
    assert all(command in call().output for command in ("list", "run", "compare"))


def test_list_names_everything(call):
    result = call("list")
    assert result.exit_code == 0
    for name, solver in bl.SOLVERS.items():
        assert re.search(rf"^ *{name} +bl\.{solver.__name__} ", result.output, re.MULTILINE), name
        assert getattr(bl, solver.__name__) is solver
    for name in (*tasks.TASKS, *datasets.NAMES):
        assert re.search(rf"^ *{name}\b", result.output, re.MULTILINE), name
    assert max(map(len, result.output.splitlines())) <= 100
    words = " ".join(result.output.split())
    assert "Fully single-loop algorithm." in words
    assert words.count("Algorithm 1") >= 4  # each paper with its listing


def test_run_prints_and_writes(call, tmp_path):
    options = ["--set", "dim_x=2", "--set", "dim_y=3", "--set", "upper_step=0.02", "--steps", "40", "--seed", "3"]
    result = call("run", "quadratic", "--solver", "soba", *options, "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "soba on quadratic, seed 3" in result.output
    assert "digits" in result.output
    out = tmp_path / "out"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["settings"]["upper_step"] == 0.02
    assert (summary["arguments"]["dim_y"], summary["seed"], summary["stats"]["steps"]) == (3, 3, 40)
    assert len((out / "history.csv").read_text().splitlines()) == 22
    with np.load(out / "solution.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays} == {"x": (2,), "y": (3,)}


def test_run_gives_a_solver_the_task_it_needs(call, tmp_path):
    small = ["--set", "train=70", "--set", "trusted=60", "--set", "full_pass=False", "--steps", "5"]
    result = call("run", "cleaning", "--solver", "saba", *small, "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["arguments"]["source"], summary["settings"]["full_pass"]) == ("blocks", False)
    with np.load(tmp_path / "solution.npz") as arrays:
        assert arrays["x"].shape == (64,)
    result = call("run", "cleaning", "--solver", "saba", *small, "--set", "source=rows")
    assert result.exit_code == 2
    assert "SABA keeps a table entry for each block" in result.stderr  # the user's word counts


def test_run_changes_what_a_preset_is_made_of(call, tmp_path):
    changes = ["--set", "adjoint_steps=3", "--set", "dim_x=2", "--steps", "2"]
    result = call("run", "quadratic", "--solver", "aid-fp", *changes, "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "summary.json").read_text())["settings"]["adjoint"].startswith("FixedPoint(steps=3")


def test_run_writes_each_leaf_by_its_path(call, tmp_path):
    small = ["--set", "train=70", "--set", "trusted=64", "--set", "regularization=0.01"]
    result = call("run", "cleaning", "--solver", "soba", "--steps", "5", *small, "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    with np.load(tmp_path / "solution.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays} == {
            "x": (70,),
            "y.weights": (10, 64),
            "y.bias": (10,),
        }


def test_a_run_that_breaks_down_says_so_and_writes(call, tmp_path):
    result = call("run", "quadratic", "--solver", "soba", "--set", "lower_step=50", "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "nonfinite: after step" in result.stderr
    assert json.loads((tmp_path / "summary.json").read_text())["result"] == "nonfinite"


def test_compare_writes_three_files(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("compare", "quadratic", "--solvers", "soba, aid", "--seeds", "2", "--steps", "40", "--set", "dim_x=2")
    assert result.exit_code == 0, result.output
    out = tmp_path / "runs" / "compare-quadratic"
    assert sorted(path.name for path in out.iterdir()) == ["curves.png", "report.html", "results.csv", "summary.json"]
    summary = json.loads((out / "summary.json").read_text())
    assert (list(summary["settings"]), summary["seeds"], summary["arguments"]["dim_x"]) == (["soba", "aid"], [0, 1], 2)
    assert len((out / "results.csv").read_text().splitlines()) == 1 + 4 * 21
    printed = result.output.splitlines()
    assert [line[:5] for line in printed[:4]] == [f"[{i}/4]" for i in range(1, 5)]
    assert max(map(len, printed[4:])) <= 100
    assert "runs/compare-quadratic" in result.output


def test_compare_with_reference_rows(call, tmp_path):
    result = call("compare", "cleaning", "--solvers", "soba", "--seeds", "3", "--steps", "20", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["best_reference"] in ("noisy labels", "noisy + trusted", "trusted alone")
    assert summary["references"]["true labels (ceiling)"]["attainable"] is False
    assert summary["solvers"]["soba"]["beats"] is False  # in 20 steps
    words = " ".join(result.output.split())
    assert "does not beat" in words
    assert "not reached" in words
    assert "unattainable" in words


def test_what_was_cut_off_goes_on_and_says_how(call, tmp_path, monkeypatch):
    solve, rows = compare_module.solve, []

    def cut(*arguments, callbacks=(), **options):
        def look(solution):
            rows.append(solution.stats["steps"])
            if len(rows) == 3:
                raise KeyboardInterrupt

        return solve(*arguments, callbacks=[*callbacks, look], **options)

    monkeypatch.setattr(compare_module, "solve", cut)
    kept = tmp_path / "kept"
    command = ("run", "quadratic", "--solver", "soba", "--steps", "40", "--checkpoint", str(kept))
    first = call(*command)
    assert first.exit_code == 130 and "the same command resumes from there" in first.stderr
    assert call(*command).exit_code == 0 and rows == list(range(0, 41, 2))
    other = call(*command, "--seed", "1")
    assert other.exit_code == 2 and other.stderr.startswith("Error: checkpoint: ") and "another run" in other.stderr


def test_compare_untimed_runs_all_seeds_at_once(call, tmp_path, monkeypatch):
    monkeypatch.setattr("bilevel.cli._make_devices", lambda count: None)  # JAX has looked at its devices long ago
    seen, together = [], compare_module.together

    def counted(tasks, *arguments, **options):
        seen.append(len(tasks))
        return together(tasks, *arguments, **options)

    monkeypatch.setattr(compare_module, "together", counted)
    arguments = ("--solvers", "soba", "--seeds", "3", "--steps", "20", "--untimed", "--out", str(tmp_path))
    assert call("compare", "quadratic", *arguments).exit_code == 0
    assert seen == [3] and (tmp_path / "results.csv").exists()


def test_interrupted_compare_keeps_results(call, tmp_path, monkeypatch):
    ran, run = [], compare_module.run

    def interrupted(*arguments, **options):
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append(1)
        return run(*arguments, **options)

    monkeypatch.setattr(compare_module, "run", interrupted)
    result = call(
        "compare", "quadratic", "--solvers", "soba,aid", "--seeds", "2", "--steps", "40", "--out", str(tmp_path)
    )
    assert result.exit_code == 130
    assert "Interrupted: 3 of 4 runs had finished" in result.output
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + 3 * 21
    assert (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quadratic", "--solver", "sobo"], "solver: 'sobo' is unknown; did you mean soba"),
        (["run", "quadratik", "--solver", "soba"], "task: 'quadratik' is unknown; did you mean quadratic?"),
        (
            ["run", "quadratic", "--solver", "soba", "--set", "uper_step=1"],
            "'uper_step' is unknown; did you mean upper_step",
        ),
        (["run", "quadratic", "--solver", "soba", "--set", "upper_step"], "write it as key=value"),
        (
            ["run", "quadratic", "--solver", "soba", "--set", "upper_step=-1"],
            "upper_step: got -1",
        ),
        (["run", "quadratic", "--solver", "soba", "--set", "upper_step=fast"], "upper_step: got "),
        (["run", "quadratic", "--solver", "aid", "--set", "inner_steps=2.5"], "inner_steps: got 2.5"),
        (["run", "quadratic", "--solver", "aid", "--set", "warm_start=no"], "warm_start: got 'no'; pass True or False"),
        (["run", "quadratic", "--solver", "soba", "--set", "batch_size=5000"], "batch_size: got 5000"),
        (["run", "cleaning", "--solver", "soba", "--set", "dataset=digit"], "'digit' is unknown; did you mean digits"),
        (["run", "cleaning", "--solver", "soba", "--set", "corruption=2"], "corruption: got 2"),
        (["compare", "cleanin"], "task: 'cleanin' is unknown; did you mean cleaning?"),
        (["compare", "quadratic", "--solvers", "soba,stocbi"], "solvers: 'stocbi' is unknown; did you mean stocbio"),
        (["compare", "quadratic", "--set", "nois=1"], "setting: 'nois' is unknown; did you mean noise"),
        (["compare", "quadratic", "--set", "upper_step=1"], "setting: 'upper_step' is unknown"),
        (["compare", "cleaning", "--set", "dataset=fashion"], "did you mean fashion-mnist?"),
        (["compare", "quadratic", "--steps", "5", "--seconds", "1"], "pass one of them"),
        (["compare", "quadratic", "--seconds", "-1"], "seconds: got -1.0"),
        (["compare", "quadratic", "--devices", "2"], "devices: got 2, but times are compared on one device; add --unt"),
        (["compare", "quadratic", "--devices", "200", "--untimed"], "devices: got 200, but JAX has 1 (cpu)"),
        (["run", "quadratic", "--solver", "soba", "--devices", "200"], "devices: got 200, but JAX has 1 (cpu)"),
    ],
)
def test_wrong_input_is_one_readable_line(call, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("arguments", [["run", "quadratic", "--solver", "soba"], ["compare", "quadratic"]])
def test_a_place_that_cannot_be_written_is_known_before_the_first_run(call, arguments, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(compare_module, "run", lambda *_, **__: ran.append(1))
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        result = call(*arguments, "--out", str(out))
        assert (result.exit_code, ran) == (2, [])
        assert result.stderr.startswith(f"Error: out: cannot write to {out} (")
        assert result.stderr.count("\n") == 1


def test_a_place_that_is_lost_during_the_run(call, tmp_path):
    (tmp_path / "history.csv").mkdir()
    result = call("run", "quadratic", "--solver", "soba", "--steps", "2", "--out", str(tmp_path))
    assert result.exit_code == 2
    assert "soba on quadratic" in result.output  # what it found is shown all the same
    assert result.stderr.startswith("Error: ") and "history.csv" in result.stderr
    assert result.stderr.count("\n") == 1


def test_version():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith(f"bilevel {bl.__version__}, jax {jax.__version__}, equinox ")


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_the_script_without_the_command_line_extra(missing, monkeypatch, request):
    project = tomllib.loads((request.config.rootpath / "pyproject.toml").read_text())["project"]
    script = EntryPoint("bilevel", project["scripts"]["bilevel"], "console_scripts")
    monkeypatch.setattr(sys, "argv", ["bilevel", "list"])
    monkeypatch.delitem(sys.modules, "bilevel.cli")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as stop:
        script.load()()
    assert stop.value.code == f"bilevel: not installed: {missing}; {extras.install('cli')}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "quadratic", "--steps", "0"],
        ["compare", "quadratic", "--seeds", "0"],
        ["run", "quadratic", "--solver", "soba", "--devices", "0"],
        ["run", "quadratic", "--solver", "soba", "--seed", "-1"],
        ["run", "quadratic", "--solver", "soba", "--seed", "99999999999999999999"],
        ["clean", "a.csv", "--label", "a", "--out", "b", "--seed", "99999999999999999999"],
    ],
)
def test_numbers_out_of_range(call, arguments):
    result = call(*arguments)
    assert result.exit_code == 2
    assert "Invalid value" in result.stderr


OWN = """
import bilevel as bl
from bilevel import tasks

class Own(bl.SOBA):
    about, tuned = None, {}

def make(speed=3):
    return tasks.quadratic(dim_x=2)

def fast(speed=1.0):
    return bl.SOBA(speed, 0.1, 0.1)
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "no.py:make", "--solver", "soba"], "task: there is no file no.py"),
        (["run", "quadratic", "--solver", "own.py"], "solver: got 'own.py'; add the name of what is in the file"),
        (["run", "quadratic", "--solver", "own.py:Owm"], "solver: own.py has no 'Owm'; did you mean Own?"),
        (["run", "quadratic", "--solver", "own.py:Own"], "settings: own.py:Own needs upper_step, lower_step, adjoint_"),
        (["run", "quadratic", "--solver", "soba[upper_step=1,2]"], "solver: 'soba[upper_step=1,2]' names 2 solvers"),
        (["run", "own.py:Own", "--solver", "soba"], "task: own.py:Own is <class"),
        (["run", "own.py:make", "--solver", "soba[upper_step=1,lower_step=1,adjoint_step=1]"], "pass steps"),
        (["run", "own.py:make", "--solver", "own.py:fast", "--set", "speed=1"], "write the solver's in brackets"),
        (["compare", "own.py:make", "--solvers", "soba"], "settings: soba needs upper_step, lower_step, adjoint_step"),
        (["compare", "own.py:make"], "solvers: none has settings for own.py:make; name solvers"),
        (["compare", "quadratic", "--solvers", "soba[upper_step=fast]"], "upper_step: got 'fast'"),
    ],
)
def test_what_is_wrong_with_ones_own_is_one_readable_line(
    call, arguments, message, tmp_path, monkeypatch, write_module
):
    write_module("own.py", OWN)
    test_wrong_input_is_one_readable_line(call, arguments, message, tmp_path, monkeypatch)


def test_data_lists_all_sets_and_reads_none(call, folder_of, monkeypatch):
    monkeypatch.setattr("bilevel.datasets.read", lambda name: pytest.fail("nothing should be read"))
    (folder_of("sentences") / "tweets_GroundTruth.txt").write_text("not looked into")
    result = call("data")
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 100
    for name, kind in datasets.KINDS.items():
        present = "built in" if name in datasets.BUILT_IN else "yes" if name == "tweets" else "no"
        assert re.search(rf"^ *{name} +{kind} +[\d,–]+ +\d+ +{present} ", result.output, re.MULTILINE), name


def test_data_shows_a_card(call, folder_of):
    result = call("data", "made-up")
    assert result.exit_code == 0, result.output
    for part in ("text", "4,800", "books: 600 rows", "built in", datasets.card("made-up").license):
        assert part in result.output


def test_data_says_what_is_missing(call, folder_of):
    result = call("data", "fc100")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: fc100: neither in ") and "FC100_train.pickle" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_data_of_an_unknown_name(call):
    result = call("data", "sentance")
    assert result.exit_code == 2
    assert "did you mean sentences" in result.stderr
