"""Sets hardware and shards, and no science: one file for each engine.

A task is `(workdir, task_index, task_count)`. Completion is read from the
sweep's files, never from a scheduler.
"""
