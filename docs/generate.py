"""Write the generated pages of the documentation: `make docs`. A test holds them against the code."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

from hindsight.capture.proxy import records
from hindsight.capture.proxy.shapes import (
    I64_MAX,
    Choice,
    Integer,
    Listed,
    Named,
    OrNull,
    Record,
    Shape,
    Text,
)
from hindsight.capture.schema import SCHEMA_VERSION, TABLES, Table
from hindsight.errors import ExitCode
from hindsight.models.manifest_schema import manifest_schema

DOCS = Path(__file__).resolve().parent


def data_dictionary() -> str:
    """docs/data-dictionary.md: every table and column of the data contract."""
    lines = [
        "# Data dictionary",
        "",
        f"Generated from `capture/schema/` (schema version {SCHEMA_VERSION}) by `make docs`; do not edit.",
        "",
        "Layout: `host=<pseudonym>/date=<YYYY-MM-DD>/<table>/<segment>.parquet`. A table without rows has no file.",
        "Tables of events are sorted by (ts, cpu, position in the ring buffer).",
        "",
    ]
    for heading, chosen in (
        ("Facts about a capture", [t for t in TABLES.values() if not t.tracepoint]),
        ("Events", [t for t in TABLES.values() if t.tracepoint]),
    ):
        lines += [f"## {heading}", ""]
        for table in chosen:
            lines += _table(table)
    return "\n".join(lines)


def _table(table: Table) -> list[str]:
    source = f" (tracepoint `{table.tracepoint}`)" if table.tracepoint else ""
    if table.tracepoint.startswith("open_files/"):
        source = " ([BPF programs](open-files.md))"
    rows = [
        f"| `{c.name}` | {c.dtype}{'?' if c.nullable else ''} | {c.unit} | {c.meaning} |"
        for c in table.columns
    ]
    return [
        f"### {table.name}", "", f"{table.meaning[0].upper()}{table.meaning[1:]}{source}.", "",
        "| column | type | unit | meaning |", "|---|---|---|---|", *rows, "",
    ]  # fmt: skip


def exit_codes() -> str:
    """docs/exit-codes.md: the exit status of every command."""
    rows = [f"| {int(code)} | {code.name.lower()} | {code.meaning} |" for code in ExitCode]
    return "\n".join(
        [
            "# Exit codes", "", "Generated from `hindsight/errors.py` by `make docs`; do not edit.", "",
            "The same for every `hindsight` command. Data goes to stdout, messages to stderr; every error says what",
            "is wrong and what to do about it.", "",
            "| code | name | meaning |", "|---|---|---|", *rows, "",
        ]
    )  # fmt: skip


_RECORDS = {
    "snapshot": records.SNAPSHOT,
    "recommendation": records.RECOMMENDATION,
    "answer": records.ANSWER,
    "efficiency": records.EFFICIENCY,
}


def proxy_schema() -> str:
    """docs/proxy.schema.json: the records of proxies as JSON Schema."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Records of proxies, version {records.SCHEMA}",
        "description": "Generated from capture/proxy/records.py by `make docs`; do not edit.",
        "$defs": {name: shape.schema() for name, shape in _RECORDS.items()},
        "anyOf": [{"$ref": f"#/$defs/{name}"} for name in _RECORDS],
    }
    return json.dumps(schema, indent=1) + "\n"


def model_manifest() -> str:
    """docs/manifest.schema.json: the manifest of a model package as JSON Schema."""
    return json.dumps(manifest_schema(), indent=1, ensure_ascii=False) + "\n"


def proxy_records() -> str:
    """docs/proxy-records.md: the same to read."""
    lines = [
        "# Records of proxies", "",
        f"Generated from `capture/proxy/records.py` (version {records.SCHEMA}) by `make docs`; do not edit. As JSON",
        "Schema: [proxy.schema.json](proxy.schema.json). What they are for: [proxies](proxy.md).", "",
        f"A snapshot has at most {records.DOCUMENT_BYTES:,} bytes on the wire, the others {records.MESSAGE_BYTES:,}.",
        "Every member must be there, and no other; numbers are integers of 64 bits.", "",
    ]  # fmt: skip
    for name, record in _RECORDS.items():
        lines += [f"## {name.capitalize()}", "", f"{record.meaning[0].upper()}{record.meaning[1:]}.", ""]
        lines += [*_members(record, ""), ""]
    return "\n".join(lines)


def _members(record: Record, prefix: str) -> list[str]:
    lines = [] if prefix else ["| member | form | unit | meaning |", "|---|---|---|---|"]
    for name, member in record.members.items():
        lines.append(f"| `{prefix}{name}` | {_form(member.shape)} | {member.unit} | {member.meaning} |")
        inner = member.shape.values if isinstance(member.shape, Listed) else member.shape
        if isinstance(inner, Record):
            lines += _members(inner, f"{prefix}{name}{'[]' if inner is not member.shape else ''}.")
    return lines


def _form(shape: Shape) -> str:
    match shape:
        case Integer(low, high):
            if high < I64_MAX:
                return str(low) if low == high else f"{low:,} … {high:,}"
            return "integer" if low < 0 else f"integer ≥ {low}"
        case Text(pattern):
            return f"`{pattern}`".replace("|", "\\|")
        case Choice(words):
            return ", ".join(words)
        case OrNull(inner):
            return f"{_form(inner)}, or null"
        case Named(_, values, most):
            return f"object of at most {most}: name → {_form(values)}"
        case Listed(_, most):
            return f"array of at most {most}"
        case _:
            return "object"


def _sibling(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


SHARE = "../capture/operation/share"
"""What `hindsight capture install` puts beside the command."""

PAGES = {
    "data-dictionary.md": data_dictionary,
    "exit-codes.md": exit_codes,
    "manifest.schema.json": model_manifest,
    "proxy-records.md": proxy_records,
    "proxy.schema.json": proxy_schema,
    f"{SHARE}/hindsight-capture.1": lambda: _sibling("manpage").manpage(),
    f"{SHARE}/hindsight.bash": lambda: _sibling("completion").bash(),
    f"{SHARE}/_hindsight": lambda: _sibling("completion").zsh(),
    f"{SHARE}/hindsight.fish": lambda: _sibling("completion").fish(),
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
        print(f"wrote docs/{name}")
