"""Entries from end to end, on small made-up ones."""

import csv
import io
import json

import numpy as np
import pytest
from matplotlib import colors, image
from rich.console import Console
from typer.testing import CliRunner

import bilevel as bl
from bilevel import cli
from bilevel._output.figures import COLORS
from bilevel.compare import _compare as compare
from bilevel.compare.store import Run, Store
from bilevel.datasets import DatasetError
from bilevel.papers import _reproduce as module
from bilevel.papers import reproduce, runs
from bilevel.papers.claims import FAILS, HOLDS, NOT_JUDGED, UNTESTED, Above, Claim
from bilevel.papers.entries import ENTRIES
from bilevel.papers.entry import SCALES, Curve, Entry, Panel, Setup

SMALL = {"dim_x": 2, "dim_y": 2}
FAST = bl.SOBA(upper_step=0.1, lower_step=0.1, adjoint_step=0.1)
SLOW = bl.SOBA(upper_step=0.001, lower_step=0.1, adjoint_step=0.1)


def entry(
    name="made-up", *, timed=False, seeds=5, solver=FAST, sentence="The faster is faster.", reverse=False, not_judged=""
):  # fmt: skip
    first, second = ("slow", "fast") if reverse else ("fast", "slow")
    setup = Setup(
        (Curve("fast", "quadratic", SMALL, solver), Curve("slow", "quadratic", SMALL, SLOW, value=1.0)),
        steps=200, seeds=seeds, rows=4, timed=timed,
    )  # fmt: skip
    return Entry(
        id=name, paper="nobody", where="nowhere", title="a title", scales=dict.fromkeys(SCALES, setup),
        panels=(Panel("seconds" if timed else "step", "correct digits"), Panel("calls", "distance", log_x=True)),
        claims=(Claim(sentence, (Above("correct digits", first, second, "step"),)),),
        settings="made up", basis="nothing", not_judged=not_judged,
    )  # fmt: skip


@pytest.fixture
def entries(monkeypatch):
    def put(*made):
        monkeypatch.setattr(module, "ENTRIES", {one.id: one for one in made})

    return put


@pytest.fixture
def made(monkeypatch):
    """The curves that were run."""
    labels, make = [], runs.make

    def counting(entry, setup, curve, checkpoint):
        labels.append(curve.label)
        return make(entry, setup, curve, checkpoint)

    monkeypatch.setattr(runs, "make", counting)
    return labels


@pytest.mark.parametrize("timed", [False, True])
def test_an_entry_from_end_to_end(entries, tmp_path, timed):
    entries(entry(timed=timed))
    console = Console(file=io.StringIO(), width=120)
    (outcome,) = reproduce(["made-up"], out=tmp_path, console=console)
    assert outcome.verdict == HOLDS
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


def test_a_claim_that_the_runs_contradict(entries, tmp_path):
    entries(entry(reverse=True))
    assert reproduce(["made-up"], out=tmp_path)[0].verdict == FAILS


def test_an_entry_that_is_not_judged_shows_its_runs_and_the_reason(entries, tmp_path):
    entries(entry("wrong", not_judged="The axis is another."), entry("right"))
    console = Console(file=io.StringIO(), width=120)
    wrong, right = reproduce(["wrong", "right"], out=tmp_path, console=console)
    assert (wrong.verdict, right.verdict) == (NOT_JUDGED, HOLDS)
    page, result = (tmp_path / "README.md").read_text(), json.loads((tmp_path / "wrong" / "result.json").read_text())
    assert (result["verdict"], result["not_judged"], result["claims"]) == (NOT_JUDGED, "The axis is another.", [])
    assert "1 of 2 entries are judged." in page and f"**{NOT_JUDGED}** — The axis is another." in page
    assert page.count("The faster is faster.") == 2  # the summary and the section of the one that is judged
    assert "wrong/figure.png" in page and "| fast | " in page.split("## right")[0]
    assert f"{NOT_JUDGED} — The axis is another." in console.file.getvalue()


def test_too_few_seeds_test_nothing(entries, tmp_path):
    entries(entry(seeds=2))
    assert reproduce(["made-up"], out=tmp_path)[0].verdict == UNTESTED


def test_curves_that_entries_share_run_once(entries, made, tmp_path):
    entries(entry("one"), entry("two"))
    one, two = reproduce(["one", "two"], out=tmp_path)
    assert made == ["fast", "slow"]
    assert [run.rows for run in one.runs["fast"]] == [run.rows for run in two.runs["fast"]]


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
    assert again.findings == first.findings
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
    monkeypatch.setattr(runs.settings, "make_task", make_task)
    first, second = reproduce(["first", "second"], out=tmp_path)
    assert first.verdict == UNTESTED and second.verdict == HOLDS
    assert "put it there" in (tmp_path / "README.md").read_text()


def test_a_curve_that_breaks_leaves_the_others(entries, monkeypatch, tmp_path):
    entries(entry())
    make = runs.make

    def breaking(entry, setup, curve, checkpoint):
        if curve.label == "fast":
            raise RuntimeError("out of luck")
        return make(entry, setup, curve, checkpoint)

    monkeypatch.setattr(runs, "make", breaking)
    (outcome,) = reproduce(["made-up"], out=tmp_path)
    assert outcome.verdict == UNTESTED and list(outcome.runs) == ["slow"]
    assert outcome.trouble == {"fast": "RuntimeError: out of luck"}


def test_the_papers_size_projects_its_duration_first(entries, tmp_path):
    entries(entry())
    console = Console(file=io.StringIO(), width=200)
    reproduce(["made-up"], scale="paper", out=tmp_path, console=console)
    assert "projected duration" in console.file.getvalue()
    assert "three executed steps" in console.file.getvalue()


def test_the_projection_grows_with_steps_and_seeds():
    setup = entry().scales["laptop"]
    long = Setup(setup.curves, steps=20_000_000, seeds=5)
    seconds = runs.projection(long)
    assert set(seconds) == {"fast", "slow"} and all(value > 60 for value in seconds.values())


def test_unknown_names_are_named(entries, tmp_path):
    entries(entry())
    with pytest.raises(ValueError, match="entry: 'made-upp' is unknown; did you mean made-up"):
        reproduce(["made-upp"], out=tmp_path)
    with pytest.raises(ValueError, match="scale: 'desk' is unknown"):
        reproduce(["made-up"], scale="desk", out=tmp_path)


def test_the_command(entries, tmp_path):
    entries(entry())
    done = CliRunner().invoke(cli.app, ["reproduce", "made-up", "--scale", "smoke", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "holds" in done.output
    listed = CliRunner().invoke(cli.app, ["reproduce"])
    assert all(name in listed.output for name in ENTRIES)


def test_there_are_twenty_four():
    assert len(ENTRIES) == 24
    assert [sum(name.startswith(paper) for name in ENTRIES) for paper in ("stocbio", "sustain", "fsla", "borep")] == [
        5, 5, 6, 8,
    ]  # fmt: skip


def test_every_entry_has_all_scales_and_panels_of_its_curves():
    for one in ENTRIES.values():
        assert set(one.scales) == set(SCALES)
        assert one.scales["laptop"].seeds >= 5
        for scale, setup in one.scales.items():
            labels = {curve.label for curve in setup.curves}
            for panel in one.panels:
                if scale == "laptop":
                    assert panel.curves is None or set(panel.curves) <= labels, (one.id, panel)


@pytest.mark.parametrize("name", list(ENTRIES))
def test_where_runs_are_kept_does_not_depend_on_the_process(name):
    for setup in ENTRIES[name].scales.values():
        for curve in setup.curves:
            assert " at 0x" not in json.dumps(runs.description(ENTRIES[name], setup, curve), default=str)


def test_estimators_are_kept_apart():
    one = ENTRIES["fsla-fig1"]
    texts = {json.dumps(runs.description(one, one.scales["laptop"], curve)) for curve in one.scales["laptop"].curves}
    assert len(texts) == len(one.scales["laptop"].curves) == 9


def test_not_a_number_survives_the_disk(tmp_path):
    store = Store(tmp_path)
    run = Run("a", 0, "successful", "", [{"step": 1, "AUROC": float("nan"), "m": np.float32(0.5)}], {"steps": 1})
    store.keep({"k": 1}, [run])
    (back,) = store.find({"k": 1})
    assert np.isnan(back.rows[0]["AUROC"]) and back.rows[0]["m"] == 0.5
    assert store.find({"k": 2}) is None


def test_a_curve_that_was_cut_off_goes_on(entries, monkeypatch, tmp_path):
    entries(entry(timed=True))
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
    (underway,) = (path for path in (tmp_path / "cut" / "runs").iterdir() if path.is_dir())
    assert [path.name for path in underway.iterdir()] == ["0"]  # seed 0, done
    reproduce(["made-up"], out=tmp_path / "cut", resume=True)
    assert not underway.exists()
    ends = []
    for name in ("whole", "cut"):
        with (tmp_path / name / "made-up" / "table.csv").open() as file:
            ends.append([[row["distance"], row["F"]] for row in csv.DictReader(file)])
    assert ends[0] == ends[1] and len(ends[0]) >= 2
