"""The page of a report as Chromium shows it: alone, to any reader, on any screen, on paper."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, started
from reported import reported

from hindsight.pipeline.report import render

pytestmark = pytest.mark.slow

SCREENS = [(360, 740), (390, 844), (820, 1180), (1280, 800)]

# Text of the page or of a drawing: what it says, its contrast with what is behind it (WCAG 2), whether it is
# large, and where it stands. Colours are those that the browser computed; an invisible drawing has no text.
TEXTS = """(() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = rgb => {
    const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement, box = element.getBoundingClientRect();
    if (!node.data.trim() || ['title', 'STYLE'].includes(element.tagName) || !box.width) continue;
    const style = getComputedStyle(element);
    const colour = parse(element instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(colour.slice(0, 3)), light(behind(element))].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize);
    found.push({
      text: node.data.trim().slice(0, 40),
      contrast: (a + 0.05) / (b + 0.05),
      large: size >= 24 || (size >= 18.66 && style.fontWeight >= 700),
      svg: element instanceof SVGElement,
      left: box.left,
      right: box.right,
    });
  }
  return found;
})()"""

FIGURES = """[...document.querySelectorAll('figure')].map(figure => ({
  drawn: [...figure.querySelectorAll('svg')].map(svg => svg.getBoundingClientRect())
    .filter(box => box.width > 0).map(box => [box.left, box.right, box.width, box.height]),
  advice: figure.closest('#explanations') !== null,
}))"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(reported(), tmp_path_factory.mktemp("page"))["report.html"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed: the page is not looked at in a browser")
    with started(program, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def shown(browser: Browser, page: Path) -> Browser:
    browser.look(1280, 800)
    browser.open(page)
    return browser


def cut_off(browser: Browser, width: int) -> list[Any]:
    """Texts of the drawings that stand outside of the window."""
    return [t for t in browser.evaluate(TEXTS) if t["svg"] and (t["left"] < 0 or t["right"] > width)]


def messages(browser: Browser) -> list[dict[str, Any]]:
    return browser.named("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")


def test_nothing_is_asked_of_anyone_and_nothing_complained_of(shown: Browser, page: Path) -> None:
    assert [e["request"]["url"] for e in shown.named("Network.requestWillBeSent")] == [page.as_uri()]
    assert messages(shown) == []
    assert shown.evaluate("document.scripts.length") == 0


def test_the_browser_would_have_told(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text('<img src="absent.png"><script>console.log("said"); absent()</script>')
    browser.open(path)
    assert len(browser.named("Network.requestWillBeSent")) == 2
    assert browser.named("Runtime.consoleAPICalled") and browser.named("Runtime.exceptionThrown")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_all_text_stands_out_from_what_is_behind_it(shown: Browser, scheme: str, width: int) -> None:
    shown.look(width, 800, scheme)
    dark = shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 20, 27)"
    assert dark == (scheme == "dark")
    texts = shown.evaluate(TEXTS)
    assert len([t for t in texts if t["svg"]]) > 50 and any(t["text"] == "stock" and t["svg"] for t in texts)
    assert [t for t in texts if t["contrast"] < (3.0 if t["large"] else 4.5)] == []


@pytest.mark.parametrize(("width", "height"), SCREENS)
def test_the_page_fits_the_window_and_so_do_its_figures(shown: Browser, width: int, height: int) -> None:
    shown.look(width, height)
    inner, scrolled = shown.evaluate("[innerWidth, document.documentElement.scrollWidth]")
    assert (inner, scrolled) == (width, width)
    captions = shown.evaluate("[...document.querySelectorAll('caption')].map(c => c.scrollWidth)")
    assert len(captions) == 3 and max(captions) <= width
    figures = shown.evaluate(FIGURES)
    assert cut_off(shown, width) == []
    assert len(figures) == 9 and sum(figure["advice"] for figure in figures) == 3
    for figure in figures:
        # One of the two drawings, inside of the window and large enough to be read.
        ((left, right, wide, high),) = figure["drawn"]
        assert left >= 0 and right <= width and wide > 0.7 * min(width, 480) and high > 100


@pytest.mark.parametrize("width", [390, 1280])
def test_whoever_cannot_see_a_figure_is_told_what_it_shows(shown: Browser, width: int) -> None:
    shown.look(width, 800)
    shown.send("Accessibility.enable")
    nodes = shown.send("Accessibility.getFullAXTree")["nodes"]
    names = [
        node.get("name", {}).get("value", "")
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in ("image", "img")
    ]
    assert len([n for n in names if len(re.findall(r"\d", n)) > 10]) == 9
    assert len([n for n in names if n.startswith("A stream that the model ")]) == 3
    assert all(names)


def test_the_tables_of_the_advice_speak_in_words(shown: Browser) -> None:
    rows = shown.evaluate(
        "[...document.querySelectorAll('#explanations tr')].map(r => [...r.cells].map(c => c.innerText))"
    )
    assert [cell.split("\n")[-1] for cell in rows[0]] == ["feature", "modelled", "exact", "modelled"]
    assert [row[0] for row in rows[1:]] == [
        "sequential", "a_feature_with_a_long_name", "<script>alert(2)</script>",
    ]  # fmt: skip
    assert [row[1] for row in rows[1:]] == ["2.0\u00a0%", "0.1\u00a0%", "−0.1\u00a0%"]


def test_verdict_harm_gain_and_headroom_are_on_the_first_screen(shown: Browser) -> None:
    boxes = shown.evaluate(
        "['.verdict', '#tile-harm', '#tile-gain', '#tile-headroom'].map(name =>"
        " document.querySelector(name).getBoundingClientRect()).map(b => [b.top, b.bottom, b.height])"
    )
    assert all(top >= 0 and bottom <= 800 and height > 50 for top, bottom, height in boxes)


def test_on_paper_nothing_is_dark_or_cut_off(shown: Browser) -> None:
    # A4 without its margins, at 96 pixels an inch, asked for by someone who reads in the dark.
    shown.look(688, 1016, "dark", "print")
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(254, 254, 254)"
    assert [t for t in shown.evaluate(TEXTS) if t["contrast"] < (3.0 if t["large"] else 4.5)] == []
    cut = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert shown.evaluate("document.querySelectorAll('.scroll').length") > 5
    assert shown.evaluate(cut) == 0
    assert cut_off(shown, 688) == []
    drawn = [box for figure in shown.evaluate(FIGURES) for box in figure["drawn"]]
    assert len(drawn) == 9 and all(right <= 688 for _, right, _, _ in drawn)
    pdf = shown.pdf()
    assert pdf.startswith(b"%PDF-") and len(re.findall(rb"/Type /Page\b", pdf)) >= 4
