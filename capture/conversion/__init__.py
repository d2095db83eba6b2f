"""Raw segments into the Parquet tables of the data contract."""
