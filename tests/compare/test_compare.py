"""Comparisons: what is run, what is kept when something breaks, and what the tables say."""

import csv
import dataclasses
import io
import json
import math
import tempfile

import numpy as np
import pytest
from rich.console import Console

import bilevel as bl
from bilevel.compare import _compare as module
from bilevel.compare import compare, figures, records, settings, tables
from bilevel.compare._compare import run
from bilevel.compare.records import Comparison, Request, Run
from bilevel.solvers.base import Tuned

SMALL = {"dim_x": 2, "dim_y": 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    console = Console(file=io.StringIO(), width=100)
    comparison = compare("quadratic", ["soba", "aid"], seeds=2, steps=40, task_settings=SMALL, out=out, console=console)
    return comparison, out, console.file.getvalue()


@pytest.fixture
def troubled(monkeypatch):
    """Makes the metrics raise on their n-th call: `troubled(n, exception)`."""
    made = settings.make_task

    def arrange(n, exception):
        calls = []

        def make_task(*arguments):
            task = made(*arguments)

            def metrics(x, y):
                calls.append(1)
                if len(calls) == n:
                    raise exception
                return task.metrics(x, y)

            return dataclasses.replace(task, metrics=metrics)

        monkeypatch.setattr(settings, "make_task", make_task)

    return arrange


def record(solver, seed, scores, auroc=0.95, seconds=1.0, result="successful", message=""):
    rows = [
        {"step": i, "seconds": seconds * i, **dict.fromkeys("FGHJ", 10 * i), "accuracy": score, "AUROC": auroc}
        for i, score in enumerate(scores)
    ]
    stats = {"steps": len(scores) - 1, "compile_seconds": 2.0 - seed, "run_seconds": rows[-1]["seconds"]}
    return Run(solver, seed, result, message, rows, stats | dict.fromkeys("FGHJ", rows[-1]["F"]))


def made_up(finals, auroc=0.95, references=(0.90, 0.91, 0.89)):
    """A comparison whose solver ends at `finals`, one a seed."""
    seeds = list(range(len(finals)))
    return Comparison(
        task="cleaning",
        arguments={},
        score="accuracy",
        solvers={"soba": {}},
        seeds=seeds,
        budget={"steps": {"soba": 2}},
        request=Request("cleaning", ["soba"]),
        runs=[record("soba", seed, [0.1, 0.5, final], auroc) for seed, final in zip(seeds, finals, strict=True)],
        references={
            "noisy labels": dict.fromkeys(seeds, 0.5),
            "trusted alone": dict(zip(seeds, references, strict=False)),
            "true labels (ceiling)": dict.fromkeys(seeds, 0.99),
        },
    )


def text(table, width=100):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def test_every_solver_runs_on_every_seed(finished):
    comparison, _, printed = finished
    assert [(r.seed, r.solver) for r in comparison.runs] == [(0, "soba"), (0, "aid"), (1, "soba"), (1, "aid")]
    assert all(r.result == "successful" and r.stats["steps"] == 40 for r in comparison.runs)
    assert all(len(r.rows) == 21 for r in comparison.runs)
    first, second = comparison.of("soba")
    assert first.rows[-1]["correct digits"] != second.rows[-1]["correct digits"]
    assert printed.count("\n") == 4  # plain lines where there is no terminal
    assert "[4/4] seed 1  aid" in printed


def test_a_run_is_what_solve_gives(finished):
    comparison, _, _ = finished
    task = settings.make_task("quadratic", 1, SMALL)
    solution = run(task, settings.settings("quadratic", "aid"), seed=1, steps=40)
    mine = comparison.of("aid")[1].rows
    assert [row["correct digits"] for row in solution.history.rows] == [row["correct digits"] for row in mine]


def test_the_key_comes_from_the_seed():
    task = settings.make_task("quadratic", 0, SMALL | {"noise": 0.1, "batch_size": 4, "rows": 16})
    solver = settings.settings("quadratic", "soba")
    first, again, other = (run(task, solver, seed=seed, steps=20).x for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_seeds_after_the_first_compile_nothing(finished, compiled):
    compare("quadratic", ["soba"], seeds=[7, 8], steps=40, task_settings=SMALL)
    assert compiled == []


def test_a_solver_that_needs_another_task_runs_on_its_own(tmp_path, monkeypatch):
    made, given = settings.make_task, []

    def make_task(name, seed, changes):
        given.append((seed, changes))
        return made(name, seed, changes)

    monkeypatch.setattr(settings, "make_task", make_task)
    noisy = SMALL | {"noise": 0.1, "rows": 12, "batch_size": 5}
    blocks = noisy | {"source": "blocks"}
    comparison = compare("quadratic", ["soba", "saba"], seeds=2, steps=4, task_settings=noisy, out=tmp_path)
    assert [r.result for r in comparison.runs] == ["successful"] * 4, comparison.runs
    assert [r.stats["G"] for r in comparison.runs] == [20, 12 + 16] * 2  # SABA: a pass over all rows, blocks of 4
    assert given == [(0, noisy), (0, blocks), (1, noisy), (1, blocks)]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["arguments"]["source"] == "rows"
    assert summary["settings"]["saba"]["source"] == "blocks"
    assert "source" not in summary["settings"]["soba"]


def test_the_users_task_settings_win():
    noisy = SMALL | {"noise": 0.1, "rows": 12, "batch_size": 4, "source": "rows"}
    comparison = compare("quadratic", ["saba", "soba"], seeds=1, steps=4, task_settings=noisy)
    assert [r.result for r in comparison.runs] == ["error", "successful"]
    assert "SABA keeps a table entry for each block" in comparison.runs[0].message
    assert comparison.solvers["saba"]["source"] == "rows"


def test_all_are_those_with_settings(monkeypatch):
    """A data set of its own may have settings for some of the solvers."""
    ran = []
    monkeypatch.setattr(module, "run", lambda task, solver, **_: ran.append(solver))
    monkeypatch.delitem(bl.SOBA.tuned, "quadratic")
    comparison = compare("quadratic", seeds=1, task_settings=SMALL)
    expected = [name for name in bl.SOLVERS if name not in ("soba", "maml")]  # MAML needs a start that is learned
    assert list(comparison.solvers) == expected
    assert len(ran) == len(expected)


def test_csv_has_a_line_for_each_history_row(finished):
    comparison, out, _ = finished
    with (out / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0])[:8] == ["solver", "seed", "step", "seconds", "F", "G", "H", "J"]
    assert len(lines) == 4 * 21
    expected = [(r.solver, r.seed, row["step"], row["correct digits"]) for r in comparison.runs for row in r.rows]
    assert [(r["solver"], int(r["seed"]), int(r["step"]), float(r["correct digits"])) for r in lines] == expected


def test_summary_holds_what_is_needed_to_repeat(finished):
    comparison, out, _ = finished
    summary = json.loads((out / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["arguments"]["dim_x"] == 2
    assert summary["arguments"]["mu"] == 1.0  # defaults too
    assert summary["settings"]["soba"] == settings.describe(settings.settings("quadratic", "soba"))
    assert summary["budget"] == {"steps": {"soba": 40, "aid": 40}}
    assert summary["environment"]["jax"]
    assert summary["environment"]["cores"] >= 1
    finals = [r.rows[-1]["correct digits"] for r in comparison.of("soba")]
    digits = summary["solvers"]["soba"]["metrics"]["correct digits"]
    assert digits["mean"] == pytest.approx(np.mean(finals))
    assert digits["standard_error"] == pytest.approx(np.std(finals, ddof=1) / math.sqrt(2))
    assert summary["references"] == {}


def test_picture_is_written(finished):
    _, out, _ = finished
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_curves_show_means_and_bands():
    comparison = made_up([0.93, 0.95, 0.94])
    left, right = figures.curves(comparison).axes
    line = left.get_lines()[0]
    assert line.get_xdata().tolist() == [0, 40, 80]  # F + G + H + J
    np.testing.assert_allclose(line.get_ydata(), [0.1, 0.5, 0.94])
    assert right.get_lines()[0].get_xdata().tolist() == [0, 1, 2]
    band = left.collections[0].get_paths()[0].vertices[:, 1]
    error = 0.01 / math.sqrt(3)
    assert {round(0.94 - error, 6), round(0.94 + error, 6)} <= {round(value, 6) for value in band}
    assert "trusted alone" in " ".join(note.get_text() for note in right.texts)
    assert "samples" in left.get_xlabel()
    assert "seconds" in right.get_xlabel()


def test_names_of_lines_that_are_close_are_moved_apart():
    places = figures.label_places({"c": 0.9, "a": 0.1, "b": 0.11}, (0.0, 1.0))
    assert places == {"a": 0.1, "b": pytest.approx(0.145), "c": 0.9}


def test_budgets_far_apart_make_both_axes_logarithmic():
    comparison = made_up([0.9, 0.9])
    comparison.solvers = {"soba": {}, "aid": {}}
    comparison.runs += [record("aid", seed, [0.1, 0.5, 0.9], seconds=0.01) for seed in (0, 1)]
    left, right = figures.curves(comparison).axes
    assert left.get_xscale() == right.get_xscale() == "log"
    assert min(right.get_lines()[1].get_xdata()) == 0.01  # not the start, at zero


def test_many_curves_are_told_apart():
    comparison = made_up([0.9, 0.9])
    comparison.solvers = {name: {} for name in bl.SOLVERS}
    comparison.runs = [dataclasses.replace(r, solver=name) for name in bl.SOLVERS for r in comparison.runs]
    figure = figures.curves(comparison)
    left, _ = figure.axes
    lines = left.get_lines()[: len(bl.SOLVERS)]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(bl.SOLVERS)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(bl.SOLVERS)
    assert not left.collections  # no bands, and the title promises none
    assert "standard error" not in figure.get_suptitle()


def test_progress_on_a_terminal():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    comparison = compare("quadratic", ["soba"], seeds=2, steps=40, task_settings=SMALL, console=console)
    assert len(comparison.runs) == 2
    assert "seed 1  soba" in console.file.getvalue()


def test_curves_of_runs_with_other_rows_are_interpolated():
    comparison = made_up([0.9, 0.9])
    comparison.runs[1].rows.insert(1, comparison.runs[1].rows[0] | {"step": 0.5, "seconds": 0.5, "accuracy": 0.3})
    where, mean, _ = figures.mean_curve(comparison.runs, lambda row: row["seconds"], "accuracy")
    assert (where[0], where[-1]) == (0, 2)
    assert np.interp(0.5, where, mean) == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize(
    ("finals", "auroc", "verdict", "beats"),
    [
        ([0.93, 0.95, 0.91], 0.95, "beats by 5.2 s.e.", True),
        ([0.91, 0.90, 0.89], 0.95, "does not beat: +0.0 s.e.", False),
        ([0.93, 0.95, 0.91], 0.85, "does not beat: AUROC 0.850 < 0.9", False),
        ([0.88, 0.92, 0.87], 0.85, "does not beat: -1.0 s.e., AUROC 0.850 < 0.9", False),
        ([0.93, 0.95, 0.91], math.nan, "beats by 5.2 s.e.", True),
        ([0.93], 0.95, "no verdict from 1 seed", False),
        ([0.93, 0.95], 0.95, "no verdict from 2 seeds", False),
    ],
)
def test_verdicts(finals, auroc, verdict, beats):
    """Against the best attainable reference, seed by seed: never the ceiling, never the mean alone."""
    row = records.statistics(made_up(finals, auroc), "soba")
    assert row["verdict"].replace("-0.0", "+0.0") == verdict
    assert row["beats"] is beats


def test_margin_is_paired():
    row = records.statistics(made_up([0.93, 0.94, 0.92]), "soba")  # each 0.03 above its seed's reference
    assert row["margin"]["mean"] == pytest.approx(0.03)
    assert row["verdict"] == "beats by over 100 s.e."


def test_seconds_to_target():
    comparison = made_up([0.93, 0.95, 0.80])
    target = records.statistics(comparison, "soba")["target"]
    assert target == {"value": pytest.approx(0.90), "reached": 2, "runs": 3, "seconds": 2.0}
    assert "2.00 (2 of 3 seeds)" in text(tables.cost_table(comparison))
    assert "not reached" in text(tables.cost_table(made_up([0.5, 0.5, 0.5])))


def test_compilation_is_counted_once():
    assert records.statistics(made_up([0.9, 0.9, 0.9]), "soba")["compile_seconds"] == 2.0


@pytest.mark.parametrize("width", [100, 160])
def test_tables_fit(width):
    comparison = made_up([0.88, 0.92, 0.87], 0.85)
    comparison.solvers = {name: {} for name in bl.SOLVERS}
    comparison.runs = [dataclasses.replace(r, solver=name) for name in bl.SOLVERS for r in comparison.runs]
    for table in (tables.results_table(comparison), tables.cost_table(comparison), *tables.catalog()):
        shown = text(table, width)
        assert max(len(line.rstrip()) for line in shown.splitlines()) <= width
        assert "…" not in shown
    shown = text(tables.results_table(comparison), width)
    assert shown.count("-1.0 s.e.") == len(bl.SOLVERS)
    assert "0.890 ± 0.015" in shown
    assert "unattainable" in shown
    assert shown.count("best reference") == 1


def test_ctrl_c_keeps_what_has_finished(troubled, tmp_path):
    troubled(2 * 21 + 8, KeyboardInterrupt())  # in the third run, at its seventh chunk
    comparison = compare("quadratic", ["soba", "aid"], seeds=2, steps=40, task_settings=SMALL, out=tmp_path)
    assert comparison.interrupted
    assert [(r.solver, r.result) for r in comparison.runs] == [
        ("soba", "successful"),
        ("aid", "successful"),
        ("soba", "interrupted"),
    ]
    assert len(comparison.runs[2].rows) == 7  # what it had reached is in the table of rows
    assert records.statistics(comparison, "soba")["runs"] == 1  # and not in the statistics
    assert "2 of 4 runs had finished" in tables.notes(comparison)[0]
    assert "1 of 2 runs: interrupted" in text(tables.results_table(comparison), 160)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["interrupted"] is True
    assert summary["runs"][2]["result"] == "interrupted"
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + 2 * 21 + 7
    assert (tmp_path / "curves.png").exists()


def test_ctrl_c_before_anything_has_run(monkeypatch, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "references", interrupt)
    comparison = compare("quadratic", ["soba"], seeds=2, steps=4, task_settings=SMALL, out=tmp_path)
    assert comparison.interrupted
    assert "no result" in text(tables.results_table(comparison))
    text(tables.cost_table(comparison))
    assert json.loads((tmp_path / "summary.json").read_text())["runs"] == []


def test_an_error_in_a_run_spares_the_others(troubled, tmp_path):
    troubled(8, ZeroDivisionError("oh dear"))
    comparison = compare("quadratic", ["soba", "aid"], seeds=2, steps=40, task_settings=SMALL, out=tmp_path)
    assert [r.result for r in comparison.runs] == ["error", "successful", "successful", "successful"]
    assert comparison.runs[0].message == "ZeroDivisionError: oh dear"
    assert "soba, seed 0: ZeroDivisionError: oh dear" in tables.notes(comparison)
    assert "1 of 2 runs: error" in text(tables.results_table(comparison), 160)


def test_a_run_that_breaks_down_counts_and_is_named(monkeypatch):
    wild = Tuned(400, upper_step=0.1, lower_step=50.0, adjoint_step=0.1)
    monkeypatch.setitem(bl.SOBA.tuned, "quadratic", wild)
    comparison = compare("quadratic", ["soba"], seeds=2, steps=400, task_settings=SMALL)
    assert [r.result for r in comparison.runs] == ["nonfinite"] * 2
    assert all(r.stats["steps"] < 400 for r in comparison.runs)
    row = records.statistics(comparison, "soba")
    assert (row["runs"], row["trouble"]) == (2, {"nonfinite": 2})
    assert "2 of 2 runs: nonfinite" in text(tables.results_table(comparison), 160)
    assert "Reduce the step sizes" in tables.notes(comparison)[0]


def test_seconds_are_kept():
    comparison = compare("quadratic", ["soba"], seeds=2, seconds=0.1, task_settings=SMALL)
    for r in comparison.runs:
        assert 0.1 <= r.stats["run_seconds"] <= 0.2  # 10 % is meant; the machine may be busy
        assert 15 <= len(r.rows) <= 60  # about 20, and the first few
        seconds = [row["seconds"] for row in r.rows]
        assert seconds == sorted(seconds)
    assert comparison.budget == {"seconds": 0.1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1, "seconds": 1.0}, "pass one of them"),
        ({"seconds": -1.0}, "seconds: got -1.0"),
        ({"seconds": math.nan}, "seconds: got nan"),
        ({"steps": 0}, "steps: got 0"),
        ({"seeds": 0}, "seeds: got 0"),
        ({"seeds": []}, "seeds: got none"),
        ({"seeds": [0, 0]}, "seeds: got .*each seed once"),
        ({"solvers": []}, "solvers: got none"),
        ({"solvers": ["soba", "sobo"]}, "'sobo' is unknown.*soba"),
        ({"task_settings": {"mu": -1}}, "mu: got -1"),
        ({"task_settings": {"upper_step": 1}}, "'upper_step' is unknown"),
    ],
)
def test_bad_arguments_before_any_run(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        compare("quadratic", **options, out=tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_place_that_cannot_be_written_costs_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "run", pytest.fail)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"^out: cannot write to .*below \(Not a directory\); pass a directory"):
        compare("quadratic", ["soba"], seeds=1, steps=2, task_settings=SMALL, out=tmp_path / "file" / "below")

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(OSError, match=r"^out: cannot write to .*\(Permission denied\)"):
        compare("quadratic", ["soba"], seeds=1, steps=2, task_settings=SMALL, out=tmp_path)


def test_columns_of_the_history_are_no_metrics(monkeypatch):
    """One list of them, `solution.RESERVED`."""
    comparison = made_up([0.9])
    assert comparison.metrics == ["accuracy", "AUROC"]
    for patched in (records, module):
        monkeypatch.setattr(patched, "RESERVED", (*patched.RESERVED, "AUROC"))
    assert comparison.metrics == ["accuracy"]
    assert "AUROC" not in module._outcome(comparison.runs[0])
