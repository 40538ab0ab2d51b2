"""Sets of runs: planned, started in worker processes, resumed."""
