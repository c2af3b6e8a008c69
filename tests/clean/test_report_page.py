"""The report of a cleaned table in a browser: rows are looked through, and the decisions are applied."""

import io
import time

import numpy as np
import pandas as pd
import pytest
from seen import assert_readable, seen_at_390px

from bilevel.clean import apply_decisions, report
from bilevel.clean.cleaned import Cleaned
from bilevel.clean.csv_table import CsvTable
from bilevel.clean.decisions import checksum
from bilevel.clean.reasons import Reason
from bilevel.columns.kinds import Column
from bilevel.estimators._flags import WrongLabels

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

CLASSES = ("</script><b>rose", "=iris", 'tall, "wild"\none', "lily")
LONG = "unbreakable" * 12


def write_report(folder, rows=12):
    """The report on a table of `rows` rows, every third of which keeps its label."""
    given = np.arange(rows) % 4
    proposed = np.where(np.arange(rows) % 3 == 2, given, (given + 1) % 4)
    notes = [f"note {i % 5} of {LONG if i == 4 else i}" for i in range(rows)]
    names = [" " * CLASSES[code].startswith("=") + CLASSES[code] for code in given]  # a formula behind a space
    table = pd.DataFrame({"petal": np.arange(rows) / 2, "note": notes, "kind": names})
    path = folder / "flowers of the field.csv"
    table.to_csv(path, index=False)
    weights = (np.arange(rows) + 1) / (rows + 2)
    columns = [Column("petal", "numeric", "from 0 to 5"), Column("note", "text", "words")]
    found = weights, np.arange(1, rows + 1), given, proposed, CLASSES, columns, ["be careful"]
    cleaned = Cleaned(folder, {}, *found, WrongLabels(0.05, 0.0, 0.2, np.array([(len(given),)], [("rows", int)])))
    shown = report.rows_to_show(cleaned)
    why = {0: [Reason("petal", 2.0), Reason("note", 1.0, ("note", "small"))]}
    cells = {row: [str(cell) for cell in table.iloc[row]] for row in shown}
    opened = CsvTable(path, "table", False, path.read_bytes())
    arguments = {"table": str(path), "encoding": None, "trusted_rows": 5, "features": 7}
    png = io.BytesIO()
    report.histogram(cleaned).savefig(png, dpi=80)
    doubtful = report.doubtful_rows(opened, cleaned, cells, why)
    page = report.page(path.name, cleaned, "kind", arguments, doubtful, png.getvalue(), checksum(path))
    (folder / "report.html").write_text(page, encoding="utf-8")
    return path, table


@pytest.fixture
def opened(browser, tmp_path):
    path, table = write_report(tmp_path)
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get((tmp_path / "report.html").as_uri())
    browser.execute_script("localStorage.clear()")
    browser.refresh()
    return path, table


def shown(browser):
    return browser.execute_script(
        "return [...doubtful.tBodies[0].rows].filter(row => row.checkVisibility()).map(row => Number(row.dataset.row))"
    )


def decided(browser):
    return browser.execute_script("return Object.fromEntries(Object.entries(decisions).map(([r, d]) => [r, d[0]]))")


def row(browser, number):
    return browser.find_element(By.CSS_SELECTOR, f"tr[data-row='{number}']")


def exported(browser, folder):
    browser.find_element(By.ID, "export").click()
    path = folder / "decisions.csv"
    for _ in range(100):
        if path.exists() and path.stat().st_size:  # the browser reserves the name with an empty file first
            return path
        time.sleep(0.05)
    raise AssertionError("nothing was downloaded")


def test_decisions_are_made_kept_exported_and_applied(browser, opened, tmp_path):
    path, table = opened
    export = browser.find_element(By.ID, "export")
    assert shown(browser) == list(range(1, 13)) and not export.is_enabled()
    assert "petal = 0.0; note: note, small" in row(browser, 1).text
    row(browser, 1).find_element(By.CSS_SELECTOR, "[value=accept]").click()
    row(browser, 2).find_element(By.CSS_SELECTOR, "[value=reject]").click()
    for number, label in ((4, "lily"), (5, 'tall, "wild" one'), (8, "=iris")):  # 4: the given one; 5: as proposed
        choice = row(browser, number).find_element(By.TAG_NAME, "select")
        choice.click()
        Select(choice).select_by_visible_text(label)
    assert not row(browser, 3).find_element(By.CSS_SELECTOR, "[value=accept]").is_enabled()
    assert decided(browser) == {"1": "accept", "2": "reject", "4": "reject", "5": "other", "8": "other"}
    assert browser.find_element(By.ID, "status").text == "12 of 12 rows shown, 5 decided"
    row(browser, 2).find_element(By.CSS_SELECTOR, "[value=reject]").click()  # once more: not decided

    kept = {"1": "accept", "4": "reject", "5": "other", "8": "other"}
    for _ in range(20):  # a busy browser may write its storage only after the page is there again
        browser.refresh()
        if decided(browser) == kept:
            break
        time.sleep(0.1)
    assert decided(browser) == kept
    pressed = row(browser, 1).find_element(By.CSS_SELECTOR, "[value=accept]").get_attribute("aria-pressed")
    assert pressed == "true" and Select(row(browser, 5).find_element(By.TAG_NAME, "select")).first_selected_option
    done = apply_decisions(path, label="kind", decisions=exported(browser, tmp_path), out=tmp_path / "corrected")
    assert (done.changed, done.kept) == (3, 1)
    new = pd.read_csv(done.path)
    table.loc[[0, 4, 7], "kind"] = [" =iris", CLASSES[2], " =iris"]
    pd.testing.assert_frame_equal(new, table)
    assert browser.get_log("browser") == []


def test_rows_are_filtered_sorted_and_decided_together(browser, opened):
    search, given, proposed, state, order = (
        browser.find_element(By.ID, name) for name in ("search", "given", "proposed", "state", "order")
    )
    search.send_keys("NOTE 1")
    assert shown(browser) == [2, 7, 12]
    search.clear()
    search.send_keys(" ")
    Select(given).select_by_visible_text("lily")
    assert shown(browser) == [4, 8, 12]
    Select(proposed).select_by_visible_text("lily")
    assert shown(browser) == [12]
    Select(given).select_by_visible_text("any")
    Select(proposed).select_by_visible_text("any")
    Select(state).select_by_visible_text("another label proposed")
    assert shown(browser) == [1, 2, 4, 5, 7, 8, 10, 11]
    Select(order).select_by_visible_text("rank")
    Select(order).select_by_visible_text("petal")
    header = next(head for head in browser.find_elements(By.CSS_SELECTOR, "#doubtful th") if head.text[:5] == "petal")
    header.send_keys(Keys.ENTER)
    assert shown(browser) == [11, 10, 8, 7, 5, 4, 2, 1]
    browser.find_element(By.ID, "accept-all").click()
    assert decided(browser) == dict.fromkeys(map(str, (1, 2, 4, 5, 7, 8, 10, 11)), "accept")
    Select(state).select_by_visible_text("not decided")
    assert shown(browser) == [12, 9, 6, 3]
    browser.find_element(By.ID, "reject-all").click()
    assert shown(browser) == [] and len(decided(browser)) == 12
    Select(state).select_by_visible_text("decided")
    browser.find_element(By.ID, "undo-all").click()
    assert decided(browser) == {} and shown(browser) == []


def test_the_keyboard_is_enough(browser, opened):
    row(browser, 1).send_keys(Keys.DOWN)
    for keys in ("a", "r", Keys.UP, "r", "u", Keys.UP, "r"):
        browser.switch_to.active_element.send_keys(keys)
    # row 2 accepted; 3 rejected; back at 3, rejected; row 4: nothing to undo; row 3 again
    assert decided(browser) == {"2": "accept", "3": "reject"}
    browser.switch_to.active_element.send_keys("o")
    assert browser.switch_to.active_element.tag_name == "select"
    Select(browser.switch_to.active_element).select_by_visible_text("lily")
    assert decided(browser)["4"] == "reject"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_on_a_telephone(browser, opened, scheme):
    with seen_at_390px(browser, scheme):
        assert_readable(browser, scheme)
        row(browser, 2).find_element(By.CSS_SELECTOR, "[value=accept]").click()
        assert decided(browser) == {"2": "accept"}


def test_thousands_of_rows_stay_quick(browser, tmp_path):
    write_report(tmp_path, rows=3_000)
    browser.get((tmp_path / "report.html").as_uri())
    took = browser.execute_script(
        "const start = performance.now(); document.getElementById('accept-all').click(); "
        "document.getElementById('state').value = 'open'; show(); body.offsetHeight; return performance.now() - start"
    )
    assert len(browser.find_element(By.ID, "doubtful").find_elements(By.TAG_NAME, "tr")) == 2_001
    assert "66 more rows for which another label is proposed are not" in browser.find_element(By.TAG_NAME, "body").text
    assert len(decided(browser)) == 2_000 - 66 and took < 5_000  # of the first 200 rows, 66 keep their label


def test_a_browser_that_keeps_nothing_says_so(browser, opened, tmp_path):
    source = {"source": "Object.defineProperty(window, 'localStorage', {get() { throw new Error('no'); }})"}
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", source)
    try:
        browser.refresh()
        assert "cannot keep your decisions: export them" in browser.find_element(By.ID, "kept").text
        row(browser, 1).find_element(By.CSS_SELECTOR, "[value=accept]").click()
        assert ",1," in exported(browser, tmp_path).read_text("utf-8-sig")  # once exported, the page may be closed
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
