"""Entries from end to end, on small made-up ones."""

import csv
import dataclasses
import io
import json
import math
from contextlib import nullcontext

import numpy as np
import pytest
from matplotlib import colors, image
from rich.console import Console
from typer.testing import CliRunner

import bilevel as bl
from bilevel import cli
from bilevel._output import files
from bilevel._output.figures import COLORS
from bilevel.compare import _compare as compare
from bilevel.compare.store import Run, Store
from bilevel.datasets import DatasetError
from bilevel.papers import _reproduce as module
from bilevel.papers import from_kept, reproduce, runs
from bilevel.papers import outcome as outcome_module
from bilevel.papers.checks import Above
from bilevel.papers.claims import FAILS, HOLDS, UNTESTED, Claim
from bilevel.papers.entries import ENTRIES
from bilevel.papers.entry import SIZES, Curve, Entry, Grid, Panel, Setup, Tuning, smaller
from bilevel.papers.figure import draw
from bilevel.papers.page import section

SMALL = {"dim_x": 2, "dim_y": 2}
FAST = bl.SOBA(upper_step=0.1, lower_step=0.1, adjoint_step=0.1)
SLOW = bl.SOBA(upper_step=0.001, lower_step=0.1, adjoint_step=0.1)


def soba(upper_step):
    return bl.SOBA(upper_step=upper_step, lower_step=0.1, adjoint_step=0.1)


def entry(
    name="made-up", *, together=True, seeds=5, solver=FAST, sentence="The faster is faster.", reverse=False,
    tuning=None,
):  # fmt: skip
    first, second = ("slow", "fast") if reverse else ("fast", "slow")
    setup = Setup(
        (Curve("fast", "quadratic", SMALL, solver), Curve("slow", "quadratic", SMALL, SLOW, value=1.0)),
        steps=200, seeds=seeds, rows=4, together=together, about="all of it", tuning=tuning,
    )  # fmt: skip
    return Entry(
        id=name, paper="nobody", where="nowhere", title="a title", sizes=dict.fromkeys(SIZES, setup),
        panels=(Panel("step" if together else "seconds", "correct digits"), Panel("calls", "distance", log_x=True)),
        claims=(Claim("“Faster.” (nowhere)", sentence, (Above("correct digits", first, second, "step"),)),),
        settings="made up",
    )  # fmt: skip


@pytest.fixture
def entries(monkeypatch):
    def put(*made):
        monkeypatch.setattr(module, "ENTRIES", {one.id: one for one in made})

    return put


@pytest.fixture
def made(monkeypatch):
    """The curves that were run."""
    labels, make = [], runs._together

    def counting(setup, curve, seeds):
        labels.append(curve.label)
        return make(setup, curve, seeds)

    monkeypatch.setattr(runs, "_together", counting)
    return labels


@pytest.mark.parametrize("together", [False, True])
def test_an_entry_from_end_to_end(entries, tmp_path, together):
    entries(entry(together=together))
    console = Console(file=io.StringIO(), width=120)
    (outcome,) = reproduce(["made-up"], out=tmp_path, console=console)
    assert outcome.verdicts == {HOLDS: 1}
    result = json.loads((tmp_path / "made-up" / "result.json").read_text())
    (claim,) = result["claims"]
    assert claim["verdict"] == HOLDS
    assert len(claim["checks"][0]["values"]) == 5
    low, high = claim["checks"][0]["interval"]
    assert 0 < low < claim["checks"][0]["mean"] < high
    picture = image.imread(tmp_path / "made-up" / "figure.png")[..., :3]
    for color in COLORS[:2]:  # of the two curves
        assert (abs(picture - colors.to_rgb(color)) < 0.01).all(axis=-1).sum() > 100
    assert "fast" in (tmp_path / "made-up" / "table.csv").read_text()
    page = (tmp_path / "README.md").read_text()
    assert "The faster is faster." in page and "**holds**" in page and "made-up/figure.png" in page
    assert "The faster is faster. → holds" in console.file.getvalue()


def test_a_figure_leaves_out_what_a_broken_run_did(entries, tmp_path):
    entries(entry())
    (outcome,) = reproduce(["made-up"], out=tmp_path)
    whole = draw(outcome).axes[0].get_ylim()
    broken = [dataclasses.replace(run, result="nonfinite") for run in outcome.runs["slow"]]
    for run in broken:
        run.rows[-1]["correct digits"] = -1e9
    figure = draw(dataclasses.replace(outcome, runs=outcome.runs | {"slow": broken}))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fast", "slow (breaks off)"]
    low, high = figure.axes[0].get_ylim()
    assert whole[0] - 10 < low < whole[1] <= high + 1
    logarithmic = figure.axes[1].lines[0].get_xdata()
    assert len(logarithmic) == len(outcome.runs["fast"][0].rows) - 1  # without the start


def test_a_claim_that_the_runs_contradict(entries, tmp_path):
    entries(entry(reverse=True))
    assert reproduce(["made-up"], out=tmp_path)[0].verdicts == {FAILS: 1}


def test_a_claim_of_one_size_is_not_tested_at_another(entries, tmp_path):
    one = entry()
    entries(dataclasses.replace(one, claims=(dataclasses.replace(one.claims[0], sizes=("paper",)),)))
    (laptop,) = reproduce(["made-up"], out=tmp_path)
    (paper,) = reproduce(["made-up"], size="paper", out=tmp_path, resume=True)
    assert (laptop.verdicts, paper.verdicts) == ({UNTESTED: 1}, {HOLDS: 1})
    assert "it is judged at paper size alone" in section(laptop)


def test_too_few_seeds_test_nothing(entries, tmp_path):
    entries(entry(seeds=2))
    assert reproduce(["made-up"], out=tmp_path)[0].verdicts == {UNTESTED: 1}


def test_curves_that_entries_share_run_once(entries, made, tmp_path):
    entries(entry("one"), entry("two"))
    one, two = reproduce(["one", "two"], out=tmp_path)
    assert made == ["fast", "slow"]
    assert [run.rows for run in one.runs["fast"]] == [run.rows for run in two.runs["fast"]]


def test_a_task_is_made_once_for_all_curves_on_its_seed(entries, monkeypatch, tmp_path):
    asked, make = [], runs.settings.make_task
    monkeypatch.setattr(runs, "_made", {})
    monkeypatch.setattr(runs.settings, "make_task", lambda *about: asked.append(about[1]) or make(*about))
    entries(entry())
    reproduce(["made-up"], out=tmp_path)
    assert asked == [0, 1, 2, 3, 4]


def test_other_settings_are_other_runs(entries, made, tmp_path):
    other = bl.SOBA(upper_step=0.11, lower_step=0.1, adjoint_step=0.1)
    entries(entry("one"), entry("two", solver=other))
    reproduce(["one", "two"], out=tmp_path)
    assert made == ["fast", "slow", "fast"]


def test_resume_skips_what_is_done_and_a_new_call_does_not(entries, made, tmp_path):
    entries(entry())
    (first,) = reproduce(["made-up"], out=tmp_path)
    (again,) = reproduce(["made-up"], out=tmp_path, resume=True)
    assert made == ["fast", "slow"]
    assert [run.rows for run in again.runs["fast"]] == [run.rows for run in first.runs["fast"]]
    assert again.judged == first.judged
    reproduce(["made-up"], out=tmp_path)
    assert made == ["fast", "slow"] * 2


def test_a_torn_file_is_run_again(entries, made, tmp_path):
    entries(entry())
    reproduce(["made-up"], out=tmp_path)
    for path in (tmp_path / "runs").glob("*.json"):
        path.write_text(path.read_text()[:200])
    reproduce(["made-up"], out=tmp_path, resume=True)
    assert made == ["fast", "slow"] * 2


def test_missing_data_are_reported_and_the_others_go_on(entries, monkeypatch, tmp_path):
    entries(entry("first"), entry("second"))
    tried = []

    def make_task(*arguments):
        tried.append(arguments)
        if len(tried) == 1:
            raise DatasetError("qmnist: put it there")
        return original(*arguments)

    original = runs.settings.make_task
    monkeypatch.setattr(runs, "_made", {})
    monkeypatch.setattr(runs.settings, "make_task", make_task)
    first, second = reproduce(["first", "second"], out=tmp_path)
    assert first.verdicts == {UNTESTED: 1} and second.verdicts == {HOLDS: 1}
    assert "put it there" in (tmp_path / "README.md").read_text()


def break_curve(monkeypatch, label):
    """Its runs raise an error."""
    make = runs._together

    def breaking(setup, curve, seeds):
        if curve.label == label:
            raise RuntimeError("out of luck")
        return make(setup, curve, seeds)

    monkeypatch.setattr(runs, "_together", breaking)


def test_a_curve_that_breaks_leaves_the_others(entries, monkeypatch, tmp_path):
    entries(entry())
    break_curve(monkeypatch, "fast")
    (outcome,) = reproduce(["made-up"], out=tmp_path)
    assert outcome.verdicts == {UNTESTED: 1} and list(outcome.runs) == ["slow"]
    assert outcome.trouble == {"fast": "RuntimeError: out of luck"}


def test_the_papers_size_projects_its_duration_first(entries, tmp_path):
    entries(entry())
    console = Console(file=io.StringIO(), width=200)
    reproduce(["made-up"], size="paper", out=tmp_path, console=console)
    assert "projected duration" in console.file.getvalue()
    assert "three executed steps" in console.file.getvalue()


def test_the_projection_grows_with_steps_and_seeds():
    one = entry()
    long = Setup(one.sizes["laptop"].curves, steps=20_000_000, seeds=5)
    found = runs.projection(one, long)
    assert set(found) == {"fast", "slow"}
    assert all(curve.seconds > 60 and 0 < curve.per_step < 1 for curve in found.values())


def test_unknown_names_are_named(entries, tmp_path):
    entries(entry())
    with pytest.raises(ValueError, match="entry: 'made-upp' is unknown; did you mean made-up"):
        reproduce(["made-upp"], out=tmp_path)
    with pytest.raises(ValueError, match="size: 'desk' is unknown"):
        reproduce(["made-up"], size="desk", out=tmp_path)


def test_the_command(entries, tmp_path):
    entries(entry())
    done = CliRunner().invoke(cli.app, ["reproduce", "made-up", "--size", "smoke", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "holds" in done.output
    listed = CliRunner().invoke(cli.app, ["reproduce"])
    assert all(name in listed.output for name in ENTRIES)


def test_there_are_twenty_four():
    assert len(ENTRIES) == 24
    assert [sum(name.startswith(paper) for name in ENTRIES) for paper in ("stocbio", "sustain", "fsla", "borep")] == [
        5, 5, 6, 8,
    ]  # fmt: skip


def test_every_entry_has_its_sizes_in_order_what_they_are_and_panels_of_its_curves():
    for one in ENTRIES.values():
        assert {"smoke", "laptop"} < set(one.sizes) <= set(SIZES)
        for size, setup in one.sizes.items():
            labels = {curve.label for curve in setup.curves}
            assert setup.about, (one.id, size)
            assert setup.seeds >= 5 or size == "smoke"
            assert all(isinstance(curve.solver, Grid) <= (setup.tuning is not None) for curve in setup.curves)
            for panel in one.panels:
                if size == list(one.sizes)[-1]:
                    assert panel.curves is None or set(panel.curves) <= labels, (one.id, panel)


@pytest.mark.parametrize("name", list(ENTRIES))
def test_where_runs_are_kept_does_not_depend_on_the_process(name):
    for setup in ENTRIES[name].sizes.values():
        for curve in setup.curves:
            assert " at 0x" not in json.dumps(runs.description(ENTRIES[name], setup, curve), default=str)


def test_estimators_are_kept_apart():
    one = ENTRIES["fsla-fig1"]
    texts = {json.dumps(runs.description(one, one.sizes["laptop"], curve)) for curve in one.sizes["laptop"].curves}
    assert len(texts) == len(one.sizes["laptop"].curves) == 8


def test_not_a_number_survives_the_disk(tmp_path):
    store = Store(tmp_path)
    run = Run("a", 0, "successful", "", [{"step": 1, "AUROC": float("nan"), "m": np.float32(0.5)}], {"steps": 1})
    store.keep({"k": 1}, [run])
    (back,) = store.find({"k": 1})
    assert np.isnan(back.rows[0]["AUROC"]) and back.rows[0]["m"] == 0.5
    assert store.find({"k": 2}) is None


def test_a_curve_that_was_cut_off_goes_on(entries, monkeypatch, tmp_path):
    entries(entry(together=False))
    reproduce(["made-up"], out=tmp_path / "whole")
    run, ends = compare.run, []

    def cut(*arguments, seed, **options):
        if seed == 1 and not ends:
            ends.append(seed)
            raise KeyboardInterrupt
        return run(*arguments, seed=seed, **options)

    monkeypatch.setattr(compare, "run", cut)
    with pytest.raises(KeyboardInterrupt):
        reproduce(["made-up"], out=tmp_path / "cut")
    (done,) = (path.read_bytes() for path in (tmp_path / "cut" / "runs").glob("*.json"))  # of seed 0
    reproduce(["made-up"], out=tmp_path / "cut", resume=True)
    assert len(list((tmp_path / "cut" / "runs").glob("*.json"))) == 10
    assert done in [path.read_bytes() for path in (tmp_path / "cut" / "runs").glob("*.json")]
    ends = []
    for name in ("whole", "cut"):
        with (tmp_path / name / "made-up" / "table.csv").open() as file:
            ends.append([[row["distance"], row["F"]] for row in csv.DictReader(file)])
    assert ends[0] == ends[1] and len(ends[0]) >= 2


def test_a_run_of_so_many_seconds(entries, tmp_path):
    one = entry(together=False)
    setup = dataclasses.replace(one.sizes["laptop"], steps=None, seconds=0.2, rows=10)
    entries(dataclasses.replace(one, sizes=one.sizes | {"laptop": setup}))
    (outcome,) = reproduce(["made-up"], out=tmp_path)
    for found in outcome.runs.values():
        assert all(0.2 <= run.rows[-1]["seconds"] < 0.6 for run in found)


def test_other_seeds(entries, tmp_path):
    entries(entry())
    (outcome,) = reproduce(["made-up"], out=tmp_path, first_seed=7)
    assert [run.seed for run in outcome.runs["fast"]] == [7, 8, 9, 10, 11]
    assert outcome.verdicts == {HOLDS: 1}


def test_what_is_kept_gives_the_same_verdicts_and_figure(entries, tmp_path):
    entries(entry(together=False))
    console = Console(file=io.StringIO(), width=120)
    (outcome,) = reproduce(["made-up"], out=tmp_path / "out", keep=tmp_path / "kept")
    (path,) = (tmp_path / "kept").iterdir()
    assert path.name == "made-up-laptop.json.gz"
    (again,) = from_kept(["made-up"], size="laptop", folder=tmp_path / "kept", console=console)
    assert again.judged == outcome.judged
    assert again.environment == outcome.environment
    assert section(again) == section(outcome)
    assert "The faster is faster. → holds" in console.file.getvalue()
    before = path.read_bytes()
    reproduce(["made-up"], out=tmp_path / "out", keep=tmp_path / "kept", resume=True)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="no runs of made-up at paper size; run it with --keep"):
        from_kept(["made-up"], size="paper", folder=tmp_path / "kept")


def test_what_is_kept_of_other_settings_is_refused(entries, tmp_path):
    entries(entry())
    reproduce(["made-up"], out=tmp_path / "out", keep=tmp_path / "kept")
    entries(entry(solver=soba(0.05)))
    with pytest.raises(ValueError, match=r"curve 'fast' has other settings.*--size laptop --keep"):
        from_kept(["made-up"], size="laptop", folder=tmp_path / "kept")


def test_an_interrupted_entry_goes_on_from_what_is_kept(entries, monkeypatch, tmp_path):
    """With another `out`, such as on the next machine."""
    made, cut, together = [], False, runs._together

    def counting(setup, curve, seeds):
        if cut and curve.label == "slow":
            raise KeyboardInterrupt
        curve.arguments.pop("split", None)  # quadratics have none
        made.append(curve.label)
        return together(setup, curve, seeds)

    monkeypatch.setattr(runs, "_together", counting)
    entries(entry(solver=GRID, tuning=RULE))
    (whole,) = reproduce(["made-up"], out=tmp_path / "whole")
    cut = True
    with pytest.raises(KeyboardInterrupt):
        reproduce(["made-up"], out=tmp_path / "first", keep=tmp_path / "kept")
    (begun,) = from_kept(["made-up"], size="laptop", folder=tmp_path / "kept")
    assert (list(begun.runs), begun.complete, begun.verdicts) == (["fast"], False, {UNTESTED: 1})
    assert "no run of slow" in section(begun)
    made, cut = [], False
    (outcome,) = reproduce(["made-up"], out=tmp_path / "second", keep=tmp_path / "kept", resume=True)
    assert made == ["slow"]
    assert outcome.complete and outcome.judged == whole.judged
    assert outcome.tuned["fast"].chosen == whole.tuned["fast"].chosen
    (again,) = from_kept(["made-up"], size="laptop", folder=tmp_path / "kept")
    assert section(again) == section(outcome)


def test_the_trouble_of_a_curve_is_kept_and_the_curve_tried_again(entries, made, monkeypatch, tmp_path):
    entries(entry())
    with monkeypatch.context() as patch:
        break_curve(patch, "slow")
        reproduce(["made-up"], out=tmp_path, keep=tmp_path / "kept")
    (begun,) = from_kept(["made-up"], size="laptop", folder=tmp_path / "kept")
    assert begun.trouble == {"slow": "RuntimeError: out of luck"}
    made.clear()
    reproduce(["made-up"], out=tmp_path, keep=tmp_path / "kept", resume=True)
    assert made == ["slow"]
    (again,) = from_kept(["made-up"], size="laptop", folder=tmp_path / "kept")
    assert again.complete and not again.trouble


def test_what_is_kept_of_other_settings_or_seeds_is_run_again(entries, made, tmp_path):
    entries(entry())
    reproduce(["made-up"], out=tmp_path / "a", keep=tmp_path / "kept")
    entries(entry(solver=soba(0.05)))
    made.clear()
    reproduce(["made-up"], out=tmp_path / "b", keep=tmp_path / "kept", resume=True)
    assert made == ["fast"]
    assert from_kept(["made-up"], size="laptop", folder=tmp_path / "kept")[0].complete
    reproduce(["made-up"], out=tmp_path / "c", keep=tmp_path / "kept", resume=True, first_seed=7)
    assert made == ["fast", "fast", "slow"]


@pytest.mark.parametrize(("name", "refused"), [("jax", (True, True)), ("system", (False, True))])
def test_what_is_kept_of_another_version_or_machine_is_refused(entries, monkeypatch, tmp_path, name, refused):
    """Steps are the same on another machine, seconds are not."""
    one = entry(together=False)
    timed = dataclasses.replace(one.sizes["laptop"], steps=None, seconds=0.05, rows=3)
    entries(one, dataclasses.replace(one, id="timed", sizes=one.sizes | {"laptop": timed}))
    reproduce(["made-up", "timed"], out=tmp_path / "a", keep=tmp_path / "kept")
    before = [path.read_bytes() for path in sorted((tmp_path / "kept").iterdir())]
    monkeypatch.setattr(outcome_module, "environment", lambda: files.environment() | {name: "7.0"})
    for entry_id, wrong in zip(("made-up", "timed"), refused, strict=True):
        with pytest.raises(ValueError, match=f"made with {name} .*which is 7.0 here") if wrong else nullcontext():
            reproduce([entry_id], out=tmp_path / "b", keep=tmp_path / "kept", resume=True)
    assert [path.read_bytes() for path in sorted((tmp_path / "kept").iterdir())] == before


def test_runs_are_thinned_before_they_are_judged():
    rows = [{"step": i, "m": i / 3, "loss": math.inf} for i in range(1000)]
    thin = runs.thinned(Run("a", 0, "successful", "", rows, {"steps": 999, "run_seconds": 1 / 3}))
    assert len(thin.rows) == runs.ROWS
    assert (thin.rows[0]["step"], thin.rows[-1]["step"]) == (0, 999)
    assert thin.rows[-1]["m"] == 333.0
    assert math.isnan(thin.rows[0]["loss"])
    assert thin.stats == {"steps": 999, "run_seconds": 0.333333}


GRID = Grid(soba, {"upper_step": (0.001, 0.1, 0.05)})
RULE = Tuning("correct digits", seeds=2, share=0.5)


def test_tuning_takes_the_best_point_and_says_where_it_lies(entries, monkeypatch, tmp_path):
    asked, made = [], runs._together

    def together(setup, curve, seeds):
        asked.append((curve.label, float(curve.solver.upper_step.rate(0)), list(seeds), setup.steps_of(curve)))
        assert curve.arguments.pop("split", None) == (None if seeds[0] == 0 else "validation")  # quadratics have none
        return made(setup, curve, seeds)

    monkeypatch.setattr(runs, "_together", together)
    entries(entry(solver=GRID, tuning=RULE))
    (outcome,) = reproduce(["made-up"], out=tmp_path / "out", keep=tmp_path / "kept")
    assert [found for found in asked if found[0] == "fast"] == [
        ("fast", pytest.approx(0.001), [1000, 1001], 100),
        ("fast", pytest.approx(0.1), [1000, 1001], 100),
        ("fast", pytest.approx(0.05), [1000, 1001], 100),
        ("fast", pytest.approx(0.1), [0, 1, 2, 3, 4], 200),
    ]
    found = outcome.tuned["fast"]
    assert (found.chosen, found.edges, found.points, found.broken) == ({"upper_step": 0.1}, ["upper_step"], 3, 0)
    assert "| fast | upper_step = 0.1 | upper_step | 3 | 0 |" in section(outcome)
    assert "ran 50% of a run on 2 seeds that no claim sees" in section(outcome)
    (again,) = from_kept(["made-up"], size="laptop", folder=tmp_path / "kept")
    assert again.tuned == outcome.tuned


def test_an_ablation_takes_the_steps_that_were_tuned_for_another_curve(entries, monkeypatch, tmp_path):
    """It is tried as that curve is, with its arguments, and these trials run once."""
    asked, made = [], runs._together

    def together(setup, curve, seeds):
        given = {name: value for name, value in curve.arguments.items() if name != "split"}  # quadratics have none
        curve = dataclasses.replace(curve, arguments=given)
        asked.append((curve.arguments["dim_y"], float(curve.solver.lower_step.rate(0)), seeds[0] >= 1000))
        return made(setup, curve, seeds)

    monkeypatch.setattr(runs, "_together", together)
    tuned = Curve("tuned", "quadratic", SMALL, GRID)
    ablation = Grid(lambda upper_step: bl.SOBA(upper_step, 0.05, 0.1), GRID.values, of=tuned)
    one = entry(solver=ablation, tuning=RULE)
    slow = one.sizes["laptop"].curves[1]
    other = Curve("fast", "quadratic", SMALL | {"dim_y": 7}, ablation)
    setup = dataclasses.replace(one.sizes["laptop"], curves=(other, dataclasses.replace(slow, solver=GRID)))
    entries(dataclasses.replace(one, sizes=dict.fromkeys(SIZES, setup)))
    (outcome,) = reproduce(["made-up"], out=tmp_path)
    own, half = pytest.approx(0.1), pytest.approx(0.05)
    assert asked == [*[(SMALL["dim_y"], own, True)] * 3, (7, half, False), (SMALL["dim_y"], own, False)]
    assert outcome.tuned["fast"].chosen == outcome.tuned["slow"].chosen == {"upper_step": 0.1}


def test_a_grid_gives_arguments_of_the_task_as_well(entries, monkeypatch, tmp_path):
    """Such as the step with which a test adapts: in the trials, in the runs and at smoke size."""
    asked, made = [], runs._together

    def together(setup, curve, seeds):
        asked.append((curve.arguments["dim_y"], float(curve.solver.lower_step.rate(0)), seeds[0] >= 1000))
        return made(setup, dataclasses.replace(curve, arguments=SMALL), seeds)

    monkeypatch.setattr(runs, "_together", together)
    grid = Grid(lambda dim: bl.SOBA(0.1, dim / 100, 0.1), {"dim": (4, 5)}, arguments={"dim_y": "dim"})
    one = entry(solver=grid, tuning=RULE)
    entries(one)
    (outcome,) = reproduce(["made-up"], out=tmp_path)
    best = outcome.tuned["fast"].chosen["dim"]
    at = [(dim, pytest.approx(dim / 100), trial) for dim, trial in ((4, True), (5, True), (best, False))]
    assert asked[:3] == at
    few = smaller(one.sizes["laptop"], {}, steps=3).curves[0].solver
    assert few.arguments == grid.arguments


def test_smoke_size_may_keep_some_curves_at_the_first_point_of_their_grids():
    setup = entry(solver=GRID, tuning=RULE).sizes["laptop"]
    whole, some = (smaller(setup, {}, steps=3, only=only) for only in (None, ("fast",)))
    assert [curve.label for curve in whole.curves] == ["fast", "slow"]
    assert isinstance(whole.curves[0].solver, Grid)
    (kept,) = some.curves
    assert float(kept.solver.upper_step.rate(0)) == pytest.approx(0.001)


def test_tuning_passes_over_what_breaks_off(entries, monkeypatch, tmp_path):
    made = runs._together

    def together(setup, curve, seeds):
        curve.arguments.pop("split", None)
        found = made(setup, curve, seeds)
        if curve.solver.upper_step.rate(0) > 0.07:
            found[-1].result = "nonfinite"
        return found

    monkeypatch.setattr(runs, "_together", together)
    entries(entry(solver=GRID, tuning=RULE))
    (outcome,) = reproduce(["made-up"], out=tmp_path)
    found = outcome.tuned["fast"]
    assert (found.chosen, found.edges, found.broken) == ({"upper_step": 0.05}, [], 1)


@pytest.mark.parametrize(("whole", "best", "said"), [(False, 0.1, "at the end"), (True, 0.05, "over the whole run")])
def test_tuning_may_judge_the_whole_run(entries, monkeypatch, tmp_path, whole, best, said):
    """With a step of 0.1 the last rows are the best of all, and with 0.05 all rows are good."""
    made = runs._together

    def together(setup, curve, seeds):
        curve.arguments.pop("split", None)
        found, rate = made(setup, curve, seeds), float(curve.solver.upper_step.rate(0))
        for run in found:
            for i, row in enumerate(run.rows):
                late = i >= 0.8 * len(run.rows)
                row["correct digits"] = 10.0 * late if rate > 0.07 else 5.0 if rate > 0.01 else 0.0
        return found

    monkeypatch.setattr(runs, "_together", together)
    entries(entry(solver=GRID, tuning=dataclasses.replace(RULE, whole=whole)))
    (outcome,) = reproduce(["made-up"], out=tmp_path)
    assert outcome.tuned["fast"].chosen == {"upper_step": best}
    assert f"mean of correct digits {said} was chosen" in section(outcome)


def test_an_edge_is_the_least_or_the_largest_value_not_the_first():
    assert GRID.edges({"upper_step": 0.05}) == []
    assert GRID.edges({"upper_step": 0.001}) == ["upper_step"]
    assert Grid(soba, {"upper_step": (0.1,)}).edges({"upper_step": 0.1}) == []


def test_the_command_projects_only(entries, tmp_path, monkeypatch):
    entries(entry())
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.app, ["reproduce", "made-up", "--size", "paper", "--project"])
    assert done.exit_code == 0, done.output
    assert "projected duration" in done.output
    assert "made-up  fast:" in done.output
    assert not list(tmp_path.iterdir())


def test_a_size_that_an_entry_does_not_have(entries, tmp_path):
    one = entry()
    entries(dataclasses.replace(one, sizes={"smoke": one.sizes["smoke"], "laptop": one.sizes["laptop"]}))
    with pytest.raises(ValueError, match="size: made-up has no paper size; its sizes are smoke, laptop"):
        reproduce(["made-up"], size="paper", out=tmp_path)
