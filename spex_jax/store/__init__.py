"""Values on disk: immutable, checksummed Parquet shards with a manifest."""
