"""The page of ``compare`` in a real browser, as wide as a desk's screen and as a phone's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from result_files import METHODS, result, write_expected, write_results

from geolip_lirpa.cli import main
from geolip_lirpa.report.bench_rows import csv_header, csv_line

WIDTHS = (1280, 390)
COUNT = 70
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs the package selenium")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in (*_OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
        yield found
    finally:
        found.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    results = write_results(folder / "r.csv", COUNT)
    expected = write_expected(folder / "expected.csv", COUNT, wrong=(0,))
    report = folder / "report.html"
    assert main(["compare", str(results), "--expected", str(expected), "--report", str(report), "--json"]) == 5
    return report


@pytest.fixture(params=WIDTHS)
def shown(request: pytest.FixtureRequest, browser: Any, page: Path) -> Any:
    """The browser with the page just opened."""
    width = request.param
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.get_log("performance")
    browser.get(page.as_uri())
    return browser


def column(browser: Any, label: str) -> list[str]:
    """Texts of one column of the lines shown."""
    script = (
        "return [...document.querySelectorAll(`#table td[data-label='${arguments[0]}']`)].map(td => td.textContent)"
    )
    found: list[str] = browser.execute_script(script, label)
    return found


def status(browser: Any) -> str:
    found: str = browser.execute_script("return document.getElementById('shown').textContent")
    return found


def filtered(browser: Any, words: str, fits: str) -> None:
    """Type words and wait until the number of lines is said."""
    wait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait
    box = browser.find_element("id", "words")
    box.clear()
    box.send_keys(words)
    wait(browser, 10).until(lambda b: status(b) == fits)


def test_it_opens_without_errors_or_requests_and_fits(shown: Any, page: Path) -> None:
    assert shown.get_log("browser") == []
    requests = [e["message"] for e in shown.get_log("performance") if "Network.requestWillBeSent" in e["message"]]
    assert requests and all(page.name in r or '"url":"data:' in r for r in requests)
    wide, inner = shown.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= inner
    # pictures are as large as their place, and each has words
    plots = shown.execute_script(
        "return [...document.querySelectorAll('.plot')].map(p => "
        "[p.getBoundingClientRect().width, p.firstElementChild.getBoundingClientRect().height, p.ariaLabel])"
    )
    assert len(plots) == 5 and all(width > 300 and height > 200 and label for width, height, label in plots)


def test_lines_come_in_portions(shown: Any) -> None:
    assert status(shown) == f"The first 100 of {COUNT * 3} of {COUNT * 3} lines" and len(column(shown, "Method")) == 100
    shown.execute_script("document.getElementById('more').click()")
    assert status(shown) == f"{COUNT * 3} of {COUNT * 3} lines" and len(column(shown, "Method")) == COUNT * 3
    assert not shown.find_element("id", "more").is_displayed()


def test_words_and_choices_filter(shown: Any) -> None:
    rows = [result(number, method) for number in range(COUNT) for method in METHODS]
    expected = [r for r in rows if "net_3" in r.onnx and r.verdict == "timeout"]
    filtered(shown, "NET_3 timeout", f"{len(expected)} of {len(rows)} lines")
    assert column(shown, "Specification") == [Path(r.vnnlib).stem for r in expected] and len(expected) > 1
    assert set(column(shown, "Verdict")) == {"timeout"}
    filtered(shown, "no such thing", "No line fits.")
    shown.find_element("id", "words").clear()
    choose(shown, "method", "alpha-crown")
    choose(shown, "verdict", "sat")
    assert set(column(shown, "Method")) == {"alpha-crown"}
    assert column(shown, "Verdict") == [
        r.verdict + (" ✗ wrong" if r.vnnlib.endswith("/p0.vnnlib") else "")
        for r in rows
        if r.method == "alpha-crown" and r.verdict == "sat"
    ]


def test_contradictions_are_marked_and_found(shown: Any) -> None:
    assert "3 verdicts contradict" in shown.find_element("css selector", ".alarm").text
    choose(shown, "verdict", "!")
    assert column(shown, "Verdict") == ["sat ✗ wrong"] * 3 and column(shown, "Expected") == ["unsat"] * 3
    assert shown.execute_script("return document.querySelectorAll('#table tr.wrong').length") == 3


def test_folders_tell_twins_apart(browser: Any, tmp_path: Path) -> None:
    rows = [replace(result(0, "crown"), vnnlib=f"{folder}/p0.vnnlib.gz") for folder in ("1.0", "2.0", "vnnlib")]
    (tmp_path / "r.csv").write_text(csv_header() + "".join(map(csv_line, rows)))
    assert main(["compare", str(tmp_path / "r.csv"), "--report", str(tmp_path / "page.html"), "--csv"]) == 0
    browser.get((tmp_path / "page.html").as_uri())
    assert column(browser, "Specification") == ["1.0/p0", "2.0/p0", "p0"]
    assert set(column(browser, "Network")) == {"net_0"}


def choose(browser: Any, name: str, value: str) -> None:
    select = pytest.importorskip("selenium.webdriver.support.ui").Select
    select(browser.find_element("id", name)).select_by_value(value)


@pytest.mark.parametrize(("label", "numbers"), [("Seconds", True), ("Bound", True), ("Specification", False)])
def test_columns_sort_both_ways(shown: Any, label: str, numbers: bool) -> None:
    place = shown.execute_script(
        "return [...document.querySelectorAll('#table th')].findIndex(th => th.textContent === arguments[0])", label
    )
    phone = shown.execute_script("return window.innerWidth") < 500
    for direction, sign in (("ascending", "+"), ("descending", "-")):
        if phone:
            # there are no headings to press
            choose(shown, "sorter", f"{place}{sign}")
        else:
            shown.find_elements("css selector", "#table th button")[place].click()
        marks = shown.execute_script("return [...document.querySelectorAll('#table th')].map(th => th.ariaSort)")
        assert [mark for mark in marks if mark] == [direction] and marks[place] == direction
        values = column(shown, label)
        keys: list[Any] = [float(v) for v in values if v] if numbers else [int(v[1:]) for v in values]
        assert keys == sorted(keys, reverse=direction == "descending") and len(set(keys)) > 1
        # what is missing stands last
        assert "" not in values[: len(keys)]


def test_headings_and_tables_have_their_roles(shown: Any) -> None:
    script = """return {
      unscoped: [...document.querySelectorAll('th')].filter(th => !th.scope).length,
      captionless: [...document.querySelectorAll('table')].filter(t => !t.caption).length,
      unnamed: [...document.querySelectorAll('input, select')].filter(e => !e.labels.length).length,
      heads: document.querySelectorAll('h1').length, language: document.documentElement.lang}"""
    assert shown.execute_script(script) == {
        "unscoped": 0, "captionless": 0, "unnamed": 0, "heads": 1, "language": "en",
    }  # fmt: skip
