"""Interpreters: `run(query, budget) -> Answer`, none of which sees a truth."""
