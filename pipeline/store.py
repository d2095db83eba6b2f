"""Files that are the same bytes whenever their content is the same; written whole or not at all.

Integers and text are stored as they are. Floats that reach a file are float32 values that were computed
exactly, or were rounded by :func:`rounded` before.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hindsight.errors import ConfigurationError, HindsightError, NotPermittedError

if TYPE_CHECKING:
    import pyarrow as pa

    from hindsight.subsystems.contract import Columns


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write ``path`` into the error that tells the user what to do."""
    try:
        yield
    except PermissionError as error:
        raise NotPermittedError(
            f"{path} cannot be written: {error.strerror}",
            "choose another place, or ask for the right to write there",
        ) from error
    except (FileExistsError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror}", "choose a path whose parents are directories"
        ) from error
    except OSError as error:
        raise HindsightError(f"{path} cannot be written: {error.strerror}") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write under a temporary name, then rename."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Sorted keys, UTF-8, two spaces, a newline at the end; NaN is refused (ValueError)."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def rounded(value: float, digits: int = 6) -> float:
    """``value`` to so many significant digits, so that the last bits of a float never reach a file."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """:func:`canonical_json` into a file."""
    write_bytes(path, canonical_json(value))


def read_json(path: Path) -> Any:
    """The content of a JSON file of an earlier stage; ConfigurationError if it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}", _STAGES) from error


_STAGES = "run the stages before this one: `dvc repro`"


def encode(columns: Columns) -> bytes:
    """Columns as the bytes of a Parquet file; deterministic."""
    import pyarrow as pa

    arrays, fields = [], []
    for name, values in columns.items():
        text = values.dtype.kind in "OU"
        array = pa.array(values.tolist(), pa.string()) if text else pa.array(values)
        arrays.append(array)
        fields.append(pa.field(name, array.type, nullable=array.null_count > 0))
    return encode_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields)))


def encode_table(table: pa.Table) -> bytes:
    """An Arrow table as the bytes of a Parquet file; deterministic."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    text = [field.name for field in table.schema if pa.types.is_string(field.type)]
    pq.write_table(
        table, sink, compression="zstd", compression_level=3, use_dictionary=text, store_schema=False
    )
    return sink.getvalue().to_pybytes()


def write_columns(path: Path, columns: Columns) -> None:
    """:func:`encode` into a file."""
    write_bytes(path, encode(columns))


def to_columns(table: pa.Table) -> dict[str, np.ndarray[Any, Any]]:
    """An Arrow table as numpy arrays; text, and every column with nulls, as object arrays (null = None)."""
    import pyarrow as pa

    columns = {}
    for field, column in zip(table.schema, table.columns, strict=True):
        if pa.types.is_string(field.type) or column.null_count:
            columns[field.name] = np.array(column.to_pylist(), dtype=object)
        else:
            columns[field.name] = column.to_numpy()
    return columns


def read_columns(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """A Parquet file of an earlier stage as columns; ConfigurationError if it is missing or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return to_columns(pq.ParquetFile(path).read())
    except (OSError, pa.ArrowException) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}", _STAGES) from error


def concatenate(parts: list[Columns]) -> dict[str, np.ndarray[Any, Any]]:
    """Tables of the same columns, one below the other; {} for no parts."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def write_tables(directory: Path, tables: Mapping[str, Columns]) -> None:
    """One Parquet file per table."""
    for name, columns in sorted(tables.items()):
        write_columns(directory / f"{name}.parquet", columns)


def read_tables(directory: Path) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """What :func:`write_tables` wrote."""
    return {path.stem: read_columns(path) for path in sorted(directory.glob("*.parquet"))}
