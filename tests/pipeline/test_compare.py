"""Versions of a model against each other, on data whose truth is known."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import Command
from documents import Document
from versions import WORKLOADS, costs, planted, write_version

from hindsight.errors import ConfigurationError, UsageError, VerificationError
from hindsight.models.package import read_package, write_package
from hindsight.pipeline import block_costs, compare
from hindsight.pipeline.compare import differences, inference
from hindsight.pipeline.evidence import synthetic
from hindsight.pipeline.evidence.comparisons import Finding
from hindsight.pipeline.evidence.thresholds import Thresholds
from hindsight.pipeline.report.palette import ROLES

CHANGE = {"scan": -0.3, "grep": 0.4}


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    return synthetic.blocks(WORKLOADS, 5)


@pytest.fixture(scope="module")
def first(packaged: Path, table: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_version(tmp_path_factory.mktemp("a") / "synthetic-1.0.0", packaged, table, version="1.0.0")


@pytest.fixture(scope="module")
def second(packaged: Path, table: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_version(
        tmp_path_factory.mktemp("b") / "synthetic-1.1.0",
        packaged,
        planted(table, CHANGE, 8),
        params={"depth": 6},
        version="1.1.0",
    )


@pytest.fixture(scope="module")
def elsewhere(packaged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Measured on other data, where the model gains less."""
    other = synthetic.blocks(WORKLOADS, 6, {**synthetic.DEFAULT_GAINS, "model": -0.3})
    return write_version(tmp_path_factory.mktemp("c") / "synthetic-2.0.0", packaged, other, "1" * 64)


def read(*directories: Path) -> list[compare.Version]:
    return [compare.read_version(directory, directory.name) for directory in directories]


@pytest.fixture(scope="module")
def planted_comparison(first: Path, second: Path) -> dict[str, Any]:
    return compare.compare(read(first, second))


@pytest.fixture(scope="module")
def across(first: Path, elsewhere: Path) -> dict[str, Any]:
    return compare.compare(read(first, elsewhere), across=True)


def found(comparison: dict[str, Any], evaluation: str = "tomorrow") -> dict[str, str]:
    section = next(e for e in comparison["evaluations"] if e["name"] == evaluation)
    return {row["workload"]: row["finding"] for row in section["workloads"]}


def test_planted_differences_are_found_with_the_right_sign(
    planted_comparison: dict[str, Any], first: Path, second: Path
) -> None:
    for evaluation in ("tomorrow", "new_workload"):
        findings = found(planted_comparison, evaluation)
        assert findings["scan"] == "better" and findings["grep"] == "worse"
        assert findings["lookup"] == findings["pack & <b>go</b> | pipe"] == "~"
    rows = {r["workload"]: r for r in planted_comparison["evaluations"][1]["workloads"]}
    for name, change in CHANGE.items():
        assert rows[name]["gain"]["low"] < -100 * change < rows[name]["gain"]["high"]
        assert abs(rows[name]["gain"]["value"] + 100 * change) < 6
        saved = rows[name]["saved"]["value"]
        assert saved == rows[name]["reference"]["value"] - rows[name]["cost"]["value"]
    turned = found(compare.compare(read(second, first)))
    assert turned["scan"] == "worse" and turned["grep"] == "better"


def test_a_gain_everywhere_shows_in_the_whole(
    packaged: Path, table: pl.DataFrame, first: Path, tmp_path: Path
) -> None:
    better = planted(table, dict.fromkeys((w.name for w in WORKLOADS), -0.2), 3)
    result = compare.compare(read(first, write_version(tmp_path / "x", packaged, better)))
    overall = {e["name"]: e["overall"][0] for e in result["evaluations"]}
    assert overall["tomorrow"]["finding"] == "better" and 15 < overall["tomorrow"]["gain"]["value"] < 25


def test_equal_versions_do_not_differ_anywhere(first: Path) -> None:
    result = compare.compare(read(first, first))
    rows = [row for e in result["evaluations"] for row in (*e["overall"], *e["workloads"])]
    assert len(rows) == 10
    for row in rows:
        assert row["finding"] == "~" and row["not_inferior"] is True
        assert row["gain"]["value"] == row["gain"]["low"] == row["gain"]["high"] == 0.0
    assert [v["label"] for v in result["versions"]] == ["synthetic-1.0.0", "synthetic-1.0.0 (2)"]
    assert compare.terminal(result).count("~") >= 4


def test_noise_alone_is_no_difference(
    packaged: Path, table: pl.DataFrame, first: Path, tmp_path: Path
) -> None:
    result = compare.compare(read(first, write_version(tmp_path / "x", packaged, planted(table, {}, 11))))
    rows = [row for e in result["evaluations"] for row in (*e["overall"], *e["workloads"])]
    assert {row["finding"] for row in rows} == {"~"}
    assert all(row["gain"]["low"] < 0 < row["gain"]["high"] for row in rows)


def test_false_differences_are_as_rare_as_promised(table: pl.DataFrame, first: Path) -> None:
    """60 families of workloads that do not differ: 3 may show a difference by chance, hardly ever 8."""
    version = read(first)[0]
    limits = Thresholds(draws=400)
    declared = 0
    for seed in range(30):
        blocks = block_costs.read_block_costs(costs(planted(table, {}, 100 + seed)))
        other = dataclasses.replace(version, blocks=blocks)
        for section in inference.on_the_same_blocks([version, other], limits):
            declared += any(c.finding in (Finding.BETTER, Finding.WORSE) for c in section.workloads)
    assert declared <= 7


def test_several_versions_share_one_correction(first: Path, second: Path) -> None:
    result = compare.compare(read(first, second, first))
    labels = [v["label"] for v in result["versions"]]
    for section in result["evaluations"]:
        assert [row["version"] for row in section["overall"]] == labels[1:]
        assert {row["finding"] for row in section["workloads"] if row["version"] == labels[2]} == {"~"}
    assert found(compare.compare(read(first, second)))["grep"] == "worse"


def test_other_data_are_refused_with_a_remedy(first: Path, elsewhere: Path, command: Command) -> None:
    done = command("pipeline", "compare", first, elsewhere, "--subsystem", "toy")
    assert done.returncode == 3 and done.stdout == "" and "Traceback" not in done.stderr
    for word in (
        "synthetic-1.0.0 and synthetic-2.0.0",
        "different data",
        "host=a",
        "--across-data",
        "dvc repro",
    ):
        assert word in done.stderr


@pytest.mark.parametrize("what", ["stock", "captures"])
def test_the_same_hash_does_not_hide_other_blocks(
    what: str, packaged: Path, table: pl.DataFrame, first: Path, tmp_path: Path
) -> None:
    if what == "stock":
        changed = table.with_columns(
            cost_ns=pl.when(
                (pl.col("block") == 3) & (pl.col("workload") == "scan") & (pl.col("arm") == "stock")
            )
            .then(pl.col("cost_ns") + 1)
            .otherwise("cost_ns")
        )
    else:
        changed = table.filter(pl.col("workload") != "grep")
    other = write_version(tmp_path / "other", packaged, changed)
    with pytest.raises(
        ConfigurationError, match="agree on what stock costs in 1 of" if what == "stock" else "captures"
    ):
        compare.compare(read(first, other))


def test_a_block_that_cost_nothing_may_be_missing(
    packaged: Path, table: pl.DataFrame, first: Path, tmp_path: Path
) -> None:
    idle = table.filter(pl.col("block") == 0).with_columns(
        block=pl.lit(1000, pl.Int32), cost_ns=pl.lit(0, pl.Int64), fetched_pages=pl.lit(0, pl.Int64)
    )
    other = write_version(tmp_path / "other", packaged, pl.concat([table, idle]))
    result = compare.compare(read(first, other))
    assert all(row["gain"]["value"] == 0.0 for e in result["evaluations"] for row in e["overall"])


def test_across_data_the_sign_is_right_and_every_row_says_so(across: dict[str, Any]) -> None:
    assert across["across_data"] is True
    rows = [row for e in across["evaluations"] for row in (*e["overall"], *e["workloads"])]
    assert rows and all(row["across_data"] is True for row in rows)
    for row in rows:
        assert row["gain"]["unit"] == "points" and "saved" not in row and -75 < row["gain"]["value"] < -35
    assert {
        row["finding"] for e in across["evaluations"] for row in e["overall"] if e["name"] == "tomorrow"
    } == {"worse"}
    gains = [v["gains"]["tomorrow"]["value"] for v in across["versions"]]
    tomorrow = next(e for e in across["evaluations"] if e["name"] == "tomorrow")
    assert tomorrow["overall"][0]["gain"]["value"] == pytest.approx(gains[1] - gains[0], abs=1e-3)


def test_across_data_every_line_says_so(across: dict[str, Any]) -> None:
    lines = [line for line in compare.terminal(across).splitlines() if line]
    assert len(lines) > 10 and all(line.startswith("[across data] ") for line in lines)
    text = compare.markdown(across)
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert rows and all(line.endswith(("| across data |", "| data |")) for line in rows)
    others = [line for line in text.splitlines() if line.startswith(("#", "- ", "<summary>"))]
    assert others and all("[across data]" in line for line in others)
    page = compare.page(across)
    body = [row for row in re.findall(r"<tr.*?</tr>", page, re.S) if "<td" in row]
    assert body and all('<span class="label">across data</span>' in row for row in body)
    for item in re.findall(r"<figcaption>.*?</figcaption>", page, re.S):
        assert "across data" in item


def test_across_data_is_not_needed_for_the_same_data(
    first: Path, second: Path, planted_comparison: dict[str, Any]
) -> None:
    result = compare.compare(read(first, second), across=True)
    assert result["evaluations"] == planted_comparison["evaluations"] and result["across_data"] is False
    assert "across data" not in compare.terminal(result) + compare.markdown(result) + compare.page(result)


def test_parameters_features_modes_and_verdicts_are_named(
    planted_comparison: dict[str, Any], first: Path
) -> None:
    rows = planted_comparison["differences"][0]["parameters"]
    assert {"name": "train.depth", "from": 4, "to": 6} in rows
    manifest = read_package(first).manifest
    a, b = manifest.features[0], manifest.features[1]
    other = dataclasses.replace(
        manifest,
        features=(
            b,
            dataclasses.replace(a, high=a.high + 5.0),
            dataclasses.replace(a, name="new"),
            *manifest.features[3:],
        ),
    )
    result = differences.features(manifest, other)
    assert (
        result["added"] == ["new"]
        and result["removed"] == [manifest.features[2].name]
        and result["reordered"]
    )
    assert result["changed"] == [
        {"name": a.name, "what": "range", "from": [a.low, a.high], "to": [a.low, a.high + 5.0]}
    ]
    for text in (compare.terminal(planted_comparison), compare.markdown(planted_comparison)):
        assert "train.depth: 4 to 6" in text
        for version in planted_comparison["versions"]:
            assert version["mode"] in text and version["line"][:30] in text


def test_regressions_come_first_in_every_rendering(planted_comparison: dict[str, Any]) -> None:
    for section in planted_comparison["evaluations"]:
        assert section["workloads"][0]["workload"] == "grep"
    terminal, text = compare.terminal(planted_comparison), compare.markdown(planted_comparison)
    page = compare.page(planted_comparison)
    assert terminal.index("grep on slow") < terminal.index("scan on disk")
    assert text.index("| grep on slow |") < text.index("| scan on disk |")
    assert page.index(">grep on slow</th>") < page.index(">scan on disk</th>")
    assert "▼ worse" in terminal and "\x1b" not in terminal and max(map(len, terminal.splitlines())) <= 110


def test_the_markdown_is_tables_that_a_pull_request_shows(planted_comparison: dict[str, Any]) -> None:
    lines = compare.markdown(planted_comparison).splitlines()
    for i, line in enumerate(lines):
        if line.startswith("| "):
            cells = len(re.findall(r"(?<!\\)\|", line))
            near = next(k for k in range(i, -1, -1) if not lines[k].startswith("|")) + 1
            assert cells == len(re.findall(r"(?<!\\)\|", lines[near])), line
    text = "\n".join(lines)
    assert "\\| pipe" in text and text.count("<details>") == text.count("</details>") == 2


def test_the_page_is_self_contained_and_well_formed(
    planted_comparison: dict[str, Any], across: dict[str, Any]
) -> None:
    for comparison in (planted_comparison, across):
        page = compare.page(comparison)
        assert page == compare.page(json.loads(json.dumps(comparison)))
        assert re.findall(r"(?i)https?:|//[a-z]|@import|src=|javascript:", page) == []
        document = Document(page)
        assert document.errors == [] and document.open == []
        assert not {"script", "link", "img", "iframe", "object", "b>go"} & {
            tag for tag, _ in document.elements
        }
        ids = [a["id"] for _, a in document.elements if "id" in a]
        assert len(ids) == len(set(ids))
        links = [a["href"] for tag, a in document.elements if tag == "a"]
        assert links and all(link and link[1:] in ids for link in links)
        assert "&lt;b&gt;go" in page and "<b>go" not in page
        assert "prefers-color-scheme:dark" in page
        used = set(re.findall(r'(?:fill|stroke)="(#[0-9a-fA-F]+)"', page))
        assert used and used <= {light for light, _ in ROLES.values()}
        for css_class, text in re.findall(r'<span class="(worse|better)">([^<]*)</span>', page):
            assert css_class in text


def test_figures_of_the_page_have_a_text_alternative(planted_comparison: dict[str, Any]) -> None:
    figures = re.findall(r"<figure>.*?</figure>", compare.page(planted_comparison), re.S)
    assert len(figures) == 2
    for figure in figures:
        for svg in re.findall(r"<svg.*?</svg>", figure, re.S):
            label = re.search(r'role="img" aria-labelledby="([^"]+)"', svg)
            assert label
            title = re.search(rf'<title id="{label[1]}">([^<]+)</title>', svg)
            assert title and "grep on slow" in title[1] and len(re.findall(r"\d", title[1])) > 10


def test_the_command_prints_and_writes(first: Path, second: Path, command: Command, tmp_path: Path) -> None:
    asked = ("pipeline", "compare", first, second, "--subsystem", "toy")
    done = command(*asked, "--json", "--html", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    comparison = json.loads(done.stdout)
    assert comparison == compare.compare(read(first, second))
    assert (tmp_path / "page.html").read_text() == compare.page(comparison)
    assert command(*asked, "--markdown").stdout == compare.markdown(comparison)
    assert command(*asked).stdout == compare.terminal(comparison)
    assert command("pipeline", "compare", first, "--subsystem", "toy").returncode == 2
    nothing = command("pipeline", "compare", first, "no-such-thing", "--subsystem", "toy", cwd=tmp_path)
    assert nothing.returncode == 3 and "no-such-thing" in nothing.stderr and "Traceback" not in nothing.stderr


def test_one_version_is_nothing_to_compare(first: Path) -> None:
    with pytest.raises(UsageError):
        compare.compare(read(first))


def altered(directory: Path, to: Path, drop: tuple[str, ...] = (), **files: bytes) -> Path:
    """A copy of a package with other files, its manifest made to fit."""
    package = read_package(directory)
    document = package.manifest.document()
    given = {k: v for k, v in document.items() if k not in ("files", "format_version", "xgboost_version")}
    kept = {name: data for name, data in package.files.items() if name not in drop}
    write_package(to, given, kept | {name.replace("_", "."): data for name, data in files.items()})
    return to


def test_parts_that_do_not_belong_together_are_refused(first: Path, second: Path, tmp_path: Path) -> None:
    theirs = read_package(second).files
    with pytest.raises(VerificationError, match="does not add up"):
        read(altered(first, tmp_path / "a", blocks_parquet=theirs[block_costs.FILE]))
    with pytest.raises(VerificationError, match="other parameters"):
        read(altered(first, tmp_path / "b", inputs_json=theirs["inputs.json"]))
    with pytest.raises(VerificationError, match="cannot be read"):
        read(altered(first, tmp_path / "c", blocks_parquet=b"no Parquet"))
    with pytest.raises(ConfigurationError, match="does not say what each block cost"):
        read(altered(first, tmp_path / "d", drop=(block_costs.FILE,)))
