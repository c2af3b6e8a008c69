"""The page of a comparison: what it says, and that it works in a browser without a network."""

import dataclasses
import json
import shlex

import pytest
from seen import assert_readable, seen_at_390px
from typer.testing import CliRunner

from bilevel._output import files
from bilevel.cli import app
from bilevel.compare import compare
from bilevel.compare.page import AXES, command, report
from bilevel.compare.records import Comparison, Request, Run


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A comparison that has been run, and its folder."""
    out = tmp_path_factory.mktemp("ran")
    changes = {"dim_x": 2, "dim_y": 2}
    return compare("quadratic", ["soba", "aid"], seeds=2, steps=10, task_settings=changes, out=out), out


def made_up():
    """Mean accuracies of 0.91 and 0.96 at the end; fsla takes a hundred times the calls of soba. Neither has run."""
    seeds = [0, 1, 2]

    def record(solver, seed, end, calls, steps=(0, 5, 10)):
        rows = [
            {"step": t, "seconds": 0.1 * t, **dict.fromkeys("FGHJ", calls * t), "accuracy": end * t / 10 + 0.01 * seed}
            for t in steps
        ]
        stats = {"steps": 10, "compile_seconds": 1.0, "run_seconds": 1.0, **dict.fromkeys("FGHJ", 10 * calls)}
        return Run(solver, seed, "successful", "", rows, stats)

    runs = [record("soba", seed, 0.9, 1) for seed in seeds] + [record("fsla", seed, 0.95, 100) for seed in seeds]
    return Comparison(
        task="cleaning",
        arguments={"dataset": "</script><b>digits"},
        score="accuracy",
        solvers={"soba": {"upper_step": 0.125}, "fsla": {"upper_step": 0.25}},
        seeds=seeds,
        budget={"steps": {"soba": 10, "fsla": 10}},
        request=Request("cleaning", ["soba", "fsla"], changes={"dataset": "</script><b>digits"}),
        runs=runs,
        references={"trusted alone": {0: 0.8, 1: 0.81, 2: 0.79}},
    )


def test_the_command_makes_the_same_comparison(ran, tmp_path):
    comparison, out = ran
    program, *words = shlex.split(command(comparison))
    assert program == "bilevel"
    assert CliRunner().invoke(app, [*words, "--out", str(tmp_path)]).exit_code == 0
    ours, again = (json.loads((folder / "summary.json").read_text()) for folder in (out, tmp_path))
    for field in ("task", "arguments", "score", "seeds", "budget", "settings"):
        assert ours[field] == again[field], field
    ends = [[row["metrics"] for row in summary["solvers"].values()] for summary in (ours, again)]
    assert ends[0] == ends[1]


def test_the_command_leaves_out_what_is_the_default(monkeypatch, ran):
    comparison, _ = ran
    assert "--steps 10" in command(comparison)
    monkeypatch.setattr(comparison, "request", dataclasses.replace(comparison.request, steps=None))
    assert "--steps" not in command(comparison)
    monkeypatch.setattr(comparison, "budget", {"seconds": 0.5})
    assert "--seconds 0.5" in command(comparison)
    assert "--untimed" not in command(comparison)
    monkeypatch.setattr(comparison, "untimed", True)
    assert "--untimed" in command(comparison)
    assert command(comparison).endswith("--set dim_x=2 --set dim_y=2")


def test_seeds_of_ones_own_are_a_call_in_python(ran, monkeypatch):
    comparison, _ = ran
    monkeypatch.setattr(comparison, "seeds", [1])
    again = {}
    exec(command(comparison).replace("\ncompare", "\ncomparison = compare"), again)
    assert [run.seed for run in again["comparison"].runs] == [1, 1]
    mine = [run.rows[-1]["distance"] for run in comparison.runs if run.seed == 1]
    assert [run.rows[-1]["distance"] for run in again["comparison"].runs] == mine


def test_the_page_says_all_it_takes_to_run_it_again(ran):
    comparison, out = ran
    page = (out / "report.html").read_text()
    assert command(comparison) in page
    assert "adjoint_step = 0." in page  # soba's settings
    for name, version in files.environment().items():
        assert f"<th>{name}</th><td>{version}</td>" in page


def test_what_could_not_run_is_said_and_not_drawn(ran):
    comparison, _ = ran
    broken = [Run("soba", 0, "error", "ValueError: <no>"), Run("aid", 0, "nonfinite", "it is NaN", *_ended(comparison))]
    page = report(
        Comparison(
            "quadratic", {}, comparison.score, comparison.solvers, [0], comparison.budget, comparison.request, broken
        )
    )
    assert "&lt;no&gt;" in page and "it is NaN" in page
    assert '"name": "soba"' not in page and '"name": "aid"' in page
    assert "NaN" not in page.partition("const data = ")[2].partition("\n")[0]


def _ended(comparison):
    rows = [dict(row) for row in comparison.of("aid")[0].rows]
    rows[-1][comparison.score] = float("nan")
    return rows, comparison.of("aid")[0].stats


def test_the_page_works_in_a_browser_without_a_network(browser, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    page = tmp_path / "report.html"
    page.write_text(report(made_up()))
    browser.get_log("performance")
    browser.get(page.as_uri())

    results, cost = browser.find_elements(By.CSS_SELECTOR, "table.sortable")

    def click(table, name):
        headers = table.find_elements(By.TAG_NAME, "th")
        next(header for header in headers if header.text.rstrip(" ▲▼") == name).click()

    def column(table, i):
        return [
            row.find_elements(By.TAG_NAME, "td")[i].text for row in table.find_elements(By.CSS_SELECTOR, "tbody tr")
        ]

    assert column(results, 0) == ["soba", "fsla", "trusted alone"]
    click(results, "accuracy")
    assert column(results, 0) == ["trusted alone", "soba", "fsla"]
    for _ in range(2):  # what is empty goes last, whichever way
        click(results, "margin")
        assert column(results, 2)[2] == ""
    click(results, "accuracy")
    click(results, "accuracy")
    assert column(results, 0) == ["fsla", "soba", "trusted alone"]
    assert column(results, 1)[0] == "0.960 ± 0.006"
    click(cost, "F")
    assert column(cost, 2) == ["10", "1k"]

    def shown():
        axis = browser.find_element(By.CSS_SELECTOR, "#chart .xtitle").text
        lines = browser.execute_script("return chart.data.map(t => [t.name, t.x.length, Math.max(...t.x)])")
        return axis, {name: (n, end) for name, n, end in lines if name}, browser.execute_script("return log.checked")

    select = Select(browser.find_element(By.ID, "axis"))
    assert [option.text for option in select.options] == list(AXES)
    assert shown() == ("steps", {"soba": (3, 10), "fsla": (3, 10)}, False)
    select.select_by_visible_text("oracle calls, in samples")
    assert shown() == ("oracle calls, in samples", {"soba": (2, 40), "fsla": (2, 4000)}, True)  # no 0 on a log axis
    browser.find_element(By.ID, "log").click()
    assert shown()[1:] == ({"soba": (3, 40), "fsla": (3, 4000)}, False)

    lines = browser.execute_script("return chart.data.map(t => t.name)")
    point = {"curveNumber": lines.index("fsla"), "pointNumber": 2}
    browser.execute_script("Plotly.Fx.hover('chart', [arguments[0]])", point)
    hover = browser.find_element(By.CSS_SELECTOR, "#chart .hoverlayer").text
    assert all(part in hover for part in ("fsla", "0.9600 ± 0.0058", "4.000k")), hover

    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [page.as_uri()]
    text = browser.find_element(By.TAG_NAME, "body").text
    assert text.count("</script><b>digits") == 2  # escaped and not obeyed, in the command and in the arguments


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_readable_on_a_telephone(browser, tmp_path, scheme):
    page = tmp_path / "report.html"
    page.write_text(report(made_up()))
    with seen_at_390px(browser, scheme):
        browser.get(page.as_uri())
        assert_readable(browser, scheme)
        back, paper, chart = browser.execute_script(
            "return [getComputedStyle(document.body).backgroundColor, chart.layout.paper_bgcolor, chart.clientWidth]"
        )
        assert {"#fff": "rgb(255, 255, 255)", "#16181b": "rgb(22, 24, 27)"}[paper] == back and chart <= 390
        reference = browser.find_element("css selector", "#chart .annotation")
        assert reference.rect["x"] + reference.rect["width"] <= 390
