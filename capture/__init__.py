"""What runs on a production host: record kernel events, seal them, convert them to Parquet."""
