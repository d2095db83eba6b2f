"""Load a package's model and reproduce its golden predictions, bit for bit, in a child process.

Run as ``python -m hindsight.advisor.golden``, with a request of :func:`reproduce` on its standard input: one
line of JSON, then the model, then ``golden.parquet``. That table has one column for each input of the model,
in order (the features by name, then the encoding of an action), and the column ``margin``; all are float32,
without nulls (a missing value is NaN).
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.errors import VerificationError
from hindsight.models.apart import answer, ask, no_answer
from hindsight.models.manifest import parse_manifest
from hindsight.models.package import MODEL, Package, check_margins, check_model

GOLDEN = "golden.parquet"
MARGIN = "margin"
MAX_ROWS = 1 << 20

_REMEDY = "do not use this package; make it again from its data"


def reproduce(package: Package) -> int:
    """The number of golden predictions, all of them reproduced.

    Raises VerificationError if the model does not load, is not the one that the manifest describes, or gives
    other margins on this machine; or if ``golden.parquet`` is not the table that this module describes.
    """
    model, golden = package.files[MODEL], package.files[GOLDEN]
    request = {"model": len(model), "manifest": package.manifest.document()}
    reply, _ = ask("hindsight.advisor.golden", json.dumps(request).encode() + b"\n" + model + golden)
    rows = reply.get("rows")
    if type(rows) is not int or not 1 <= rows <= MAX_ROWS:
        raise no_answer()
    return rows


def _work(request: bytes) -> tuple[dict[str, object], bytes]:
    from hindsight.models.loader import load_here

    line, _, rest = request.partition(b"\n")
    asked = json.loads(line)
    manifest = parse_manifest(asked["manifest"])
    model, golden = rest[: asked["model"]], rest[asked["model"] :]
    names, inputs, expected = _read_golden(golden, manifest.row_width)
    loaded = load_here(model, inputs)
    features = [feature.name for feature in manifest.features]
    if names[: len(features)] != features or list(loaded.feature_names or names) != names:
        raise VerificationError(
            f"the manifest, the model and {GOLDEN} do not name the same inputs in the same order", _REMEDY
        )
    check_model(manifest, loaded)
    assert loaded.margins is not None
    check_margins(loaded.margins, expected)
    return {"rows": len(expected)}, b""


def _read_golden(data: bytes, width: int) -> tuple[list[str], NDArray[np.float32], NDArray[np.float32]]:
    """Names of the inputs, the inputs (float32, shape (n, width)) and their margins (float32, shape (n,))."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data), memory_map=False, pre_buffer=False)
        schema = file.schema_arrow
        if len(schema) != width + 1 or schema.names[-1] != MARGIN:
            raise VerificationError(f"{GOLDEN} has not {width} inputs and then {MARGIN}", _REMEDY)
        if any(field.type != pa.float32() for field in schema):
            raise VerificationError(f"{GOLDEN} has a column that is not float32", _REMEDY)
        if not 1 <= file.metadata.num_rows <= MAX_ROWS:
            raise VerificationError(f"{GOLDEN} has no row, or more than {MAX_ROWS}", _REMEDY)
        table = file.read(use_threads=False)
        if any(column.null_count for column in table.columns):
            raise VerificationError(f"{GOLDEN} has a null", "a missing value is NaN")
        columns: list[NDArray[Any]] = [column.to_numpy() for column in table.columns]
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise VerificationError(f"{GOLDEN} cannot be read: {reason}", _REMEDY) from None
    return schema.names[:-1], np.stack(columns[:-1], axis=1), np.ascontiguousarray(columns[-1])


if __name__ == "__main__":
    answer(_work)
