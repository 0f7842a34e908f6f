"""The recorder turns journals and outcome logs into Parquet files of the lake. Nothing else here knows pyarrow."""
