"""One small table a program: how its throughput lines look."""
