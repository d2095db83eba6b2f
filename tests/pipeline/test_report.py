from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from documents import Document
from reported import WORKLOADS, reported

from hindsight.errors import HindsightError
from hindsight.pipeline import evidence
from hindsight.pipeline.evidence import synthetic
from hindsight.pipeline.report import numbers, render, terminal
from hindsight.pipeline.report.palette import ROLES
from hindsight.pipeline.store import canonical_json


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return reported()


@pytest.fixture(scope="module")
def written(report: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return render(report, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(written: dict[str, Path]) -> str:
    return written["report.html"].read_text(encoding="utf-8")


def test_json_is_canonical_and_the_truth(report: dict[str, Any], written: dict[str, Path]) -> None:
    assert written["report.json"].read_bytes() == canonical_json(report)
    assert sorted(written) == ["report.html", "report.json", "report.md"]


def test_the_same_report_gives_the_same_bytes(
    report: dict[str, Any], written: dict[str, Path], tmp_path: Path
) -> None:
    for name, path in render(report, tmp_path).items():
        assert path.read_bytes() == written[name].read_bytes(), name


def test_the_page_knows_no_address_and_no_script(page: str) -> None:
    assert re.findall(r"(?i)https?:|//[a-z]|@import|src=|javascript:", page) == []
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    document = Document(page)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in document.elements}
    links = [attributes["href"] for tag, attributes in document.elements if tag == "a"]
    ids = {attributes.get("id") for _, attributes in document.elements}
    assert links and all(link is not None and link[1:] in ids and link[0] == "#" for link in links)
    assert len(page) < 1_500_000


def test_the_page_is_well_formed_and_its_ids_are_unique(page: str) -> None:
    document = Document(page)
    assert document.errors == [] and document.open == []
    ids = [a["id"] for _, a in document.elements if "id" in a]
    assert len(ids) == len(set(ids))
    references = re.findall(r'aria-labelledby="([^"]+)"|url\(#([^)]+)\)', page)
    assert all((a or b) in ids for a, b in references)


def test_every_figure_has_a_text_alternative(page: str) -> None:
    figures = re.findall(r"<figure>.*?</figure>", page, re.S)
    assert len(figures) == 9
    for figure in figures:
        drawings = re.findall(r"<svg.*?</svg>", figure, re.S)
        assert len(drawings) == 2 and "<figcaption>" in figure
        for svg in drawings:
            label = re.search(r'role="img" aria-labelledby="([^"]+)"', svg)
            assert label
            title = re.search(rf'<title id="{label[1]}">([^<]+)</title>', svg)
            # The alternative carries the figures, not only a name.
            assert title and len(re.findall(r"\d", title[1])) > 10


def test_charts_use_only_colours_that_both_schemes_know(page: str) -> None:
    used = set(re.findall(r'(?:fill|stroke)="(#[0-9a-fA-F]+)"', page))
    assert used and used <= {light for light, _ in ROLES.values()}
    assert not set(re.findall(r'(?:fill|stroke)="([a-z]+)"', page)) - {"none", "transparent"}
    assert len({light for light, _ in ROLES.values()}) == len(ROLES)
    assert "prefers-color-scheme:dark" in page and "@media print" in page


def test_tables_say_without_colour_what_they_mean(page: str) -> None:
    text = "".join(Document(page).words)
    for sign in ("▲ better", "▼ worse", "? too little data", "~"):
        assert sign in text
    for match in re.findall(r'<span class="(worse|better)">([^<]*)</span>', page):
        assert match[0] in match[1]


def test_text_of_the_data_is_escaped(page: str) -> None:
    assert "<script>" not in page and "&lt;script&gt;alert(1)" in page


def test_verdict_harm_gain_and_headroom_come_first(page: str, report: dict[str, Any]) -> None:
    order = [page.index(mark) for mark in ("<h1>", 'id="tile-harm"', 'id="tile-gain"', 'id="tile-headroom"')]
    assert order == sorted(order) and order[-1] < page.index("<table>")
    assert report["verdict"]["mode"] in page[: page.index("<h1>")]


def test_regressions_come_first_in_every_rendering(page: str, written: dict[str, Path]) -> None:
    markdown = written["report.md"].read_text(encoding="utf-8")
    table = markdown[markdown.index("| workload |") :]
    assert table.splitlines()[2].startswith("| victim on slow-disk |")
    assert "&" in table and "\\| pipe" in table
    first = page[page.index('id="workloads"') :]
    assert first.index("victim on slow-disk</th>") < first.index("a rather long name on disk</th>")


def test_the_terminal_says_it_in_a_dozen_lines(report: dict[str, Any]) -> None:
    text = terminal(report, "somewhere/report.html")
    assert text.splitlines()[-1] == "report: somewhere/report.html"
    assert report["verdict"]["mode"] in text and "\x1b" not in text and len(text.splitlines()) < 25
    for word in ("harm", "gain", "headroom", "against trivial rule"):
        assert word in text


def test_a_report_of_the_barest_context_renders(tmp_path: Path) -> None:
    blocks = synthetic.blocks(WORKLOADS[:1], 5).filter(pl.col("arm").is_in(["stock", "model"]))
    context = synthetic.context(blocks)
    bare = {key: context[key] for key in ("subsystem", "metrics")}
    page = render(evidence.assess(blocks, bare, {"draws": 100}), tmp_path)["report.html"].read_text()
    assert "Not measured" in page and "No verdict" in page
    empty = evidence.assess(blocks.clear(), bare, {"draws": 100})
    assert "Not measured" in render(empty, tmp_path)["report.html"].read_text()
    assert terminal(empty)


def test_a_directory_that_cannot_be_written_is_an_error_of_ours(
    report: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HindsightError):
        render(report, tmp_path / "file")


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0, "ns", "0 ns"),
        (999, "ns", "999 ns"),
        (1_234, "ns", "1.23 µs"),
        (-5_364_000_000, "ns", "−5.36 s"),
        (90_000_000_000, "ns", "1.50 min"),
        (999_999, "pages", "999,999 pages"),
        (4_150_000, "pages", "4.15 M pages"),
        (5 * 2**20, "bytes", "5.00 MiB"),
        (None, "ns", "–"),
        (-22.278, "%", "−22.3 %"),
        (0.004, "%", "0.004 %"),
        (123.4, "%", "123 %"),
        (0.0, "%", "0.0 %"),
    ],
)
def test_figures_have_units_and_no_more_digits_than_they_carry(value: Any, unit: str, shown: str) -> None:
    assert numbers.quantity(value, unit) == shown


def test_gains_have_a_sign_and_intervals_two() -> None:
    entry = {"value": 12.34, "unit": "%", "label": "exact", "low": -1.0, "high": 25.0}
    assert (numbers.gain(entry), numbers.interval(entry)) == ("+12.3 %", "−1.0 to +25.0 %")
    assert numbers.interval({"value": 1.0, "unit": "%", "label": "exact"}) == "–"


def test_what_was_predicted_and_run_live_is_drawn_and_said(tmp_path: Path) -> None:
    points = [
        {"profile": "P1", "workload": "scan", "setting": "device:512", "predicted": 1.25, "measured": 1.5},
        {"profile": "P2", "workload": "points", "setting": "model", "predicted": -0.03, "measured": -0.5},
    ]
    check = {"pairs": 40, "sign_right": 0.975, "median_error": 0.06, "p90_error": 0.2, "points": points}
    live = reported(live_check=check)
    files = render(live, tmp_path)
    text = files["report.html"].read_text(encoding="utf-8")
    assert not Document(text).errors
    assert "Predicted against measured change of throughput" in text
    assert "P1 scan device:512: predicted +125" in text and "P2 points model: predicted −3" in text
    assert "sign right in 97.5 % of 40 pairs" in files["report.md"].read_text(encoding="utf-8")


def test_what_advice_costs_and_how_late_it_is_stand_on_the_page(
    report: dict[str, Any], page: str, written: dict[str, Path]
) -> None:
    words = " ".join(" ".join(Document(page).words).split())
    assert "advice that acts 150 µs to 3 ms (median 400 µs) after the decision" in words
    for section in report["evaluations"]:
        cost = section["advice_cost"]
        assert cost["net_gain"]["value"] == pytest.approx(
            section["model"]["gain"]["value"] - cost["share"]["value"], abs=1e-5
        )
        assert numbers.gain(cost["net_gain"]) in words
        assert f"| gain net of it | {numbers.gain(cost['net_gain'])} (" in written["report.md"].read_text()
