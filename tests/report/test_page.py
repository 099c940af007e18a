"""The page of a report in a browser: nothing missing, nothing from outside, readable by everybody."""

import json
from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest

import geopipe as gp
from geopipe import demo

pytestmark = pytest.mark.slow

CONTRAST = """
(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const d = canvas.getImageData(0, 0, 1, 1).data; return [d[0], d[1], d[2], d[3] / 255];
  };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const luminance = c => {
    const [r, g, b] = c.slice(0, 3).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = e => {
    const layers = [];
    for (; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, c) => over(c, below), [255, 255, 255, 1]);
  };
  const poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walker.nextNode();) {
    const e = node.parentElement, style = getComputedStyle(e);
    if (!node.data.trim() || !e.getClientRects().length || e.closest("svg, style")) continue;
    const back = behind(e), ink = over(rgba(style.color), back);
    const [high, low] = [luminance(ink), luminance(back)].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const ratio = (high + .05) / (low + .05);
    if (ratio < (large ? 3 : 4.5)) poor.push([node.data.trim().slice(0, 40), ratio.toFixed(2)]);
  }
  return poor;
})()
"""

WITHOUT_A_TEXT = """
[...document.querySelectorAll("img")].filter(e => !e.alt || !e.naturalWidth).map(e => e.outerHTML.slice(0, 80))
.concat([...document.querySelectorAll("svg")].filter(
  e => !e.closest("[aria-hidden], [role=img][aria-label]")).map(e => e.outerHTML.slice(0, 80)))
"""

TOO_WIDE = """
[...document.querySelectorAll("main *")].filter(
  e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll, pre, .histogram, .chart"))
.map(e => e.outerHTML.slice(0, 80))
"""

OUT_OF_REACH = """
[...document.querySelectorAll("main *")].filter(e => {
  const style = getComputedStyle(e), scrolls = ["auto", "scroll"].includes(style.overflowX);
  return scrolls && e.scrollWidth > e.clientWidth && e.tabIndex < 0;
}).map(e => e.outerHTML.slice(0, 80))
"""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo, with analyses, whose table is made in this process."""
    folder = tmp_path_factory.mktemp("demo")
    overrides = {"analysis.methods": ["summary", "pca", "kmeans"], "analysis.kmeans_k": 4}
    summary = gp.run(demo.generate(folder), overrides, engine="local", progress=False)
    assert summary.report == folder / "output" / "report.html"
    return folder / "output"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    with chromium.browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_whole_and_readable(browser: chromium.Browser, output: Path, width: int, scheme: str) -> None:
    browser.show((output / "report.html").as_uri(), width, scheme)
    assert browser.problems == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []
    facts = json.loads((output / "report/facts.json").read_text())
    titles = browser.value("[...document.querySelectorAll('figure.card h3')].map(e => e.textContent)")
    for variable in facts["variables"]:
        assert any(title.startswith(variable["name"]) for title in titles)
        identity = f"v-{variable['name'].replace('_', '-')}"
        assert browser.value(f"!!document.querySelector('#{identity} img').naturalWidth"), variable["name"]
        shape = browser.value(f"(i => i.clientWidth / i.clientHeight)(document.querySelector('#{identity} img'))")
        assert abs(shape - 500 / 400) < 0.02, "a map has the shape of its grid"
    sections = browser.value("[...document.querySelectorAll('main h2')].map(e => e.textContent)")
    assert sections == ["Alerts", "What came out", "How variables relate", "Analyses", "How it went", "What ran"]
    assert browser.value("[...document.querySelectorAll('table')].every(t => t.rows.length > 1)")
    assert browser.value("document.querySelectorAll('.chart').length") >= 1
    browser.value("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert browser.value(WITHOUT_A_TEXT) == []
    assert browser.value(CONTRAST) == []
    assert browser.value(TOO_WIDE) == []
    assert browser.value(OUT_OF_REACH) == []
    assert browser.value("document.documentElement.scrollWidth") <= width


def test_the_first_key_leads_past_the_navigation(browser: chromium.Browser, output: Path) -> None:
    browser.show((output / "report.html").as_uri(), 1280, "light")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert browser.value("document.activeElement.className") == "skip"
    assert browser.value("document.activeElement.getBoundingClientRect().left") >= 0
    for kind in ("keyDown", "keyUp"):
        browser.call(
            "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r"
        )
    assert browser.value("location.hash") == "#alerts"


def test_the_page_is_one_small_file(output: Path) -> None:
    page = (output / "report.html").read_text()
    assert len(page.encode()) < 5e6
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page
