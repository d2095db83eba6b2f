"""Raw segments into the Parquet tables of the data contract."""

import os

# Nothing here does linear algebra: its threads, which numpy starts, would only take processor time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
