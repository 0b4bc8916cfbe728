"""Many runs that survive anything: the same command goes on where a kill was.

grid         a configuration and its items, cut into shards with addresses
run          a sweep's directory, opened, begun or refused
task         the shards of one task: what is done, fails, is given up
evaluating   one shard's masks and values
processes    several processes of one task, and signals
state        what is done, failed, damaged; what may be removed
tables       the rows as Parquet, for pandas, for SQL
failures, metrics, anchors, environment
             what the directory keeps besides shards and settings
"""
