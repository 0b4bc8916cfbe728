"""Who explains a black box from queries: benchmarks, interpreters, referees."""
