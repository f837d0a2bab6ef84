"""dlperf benchmarks deep-learning frameworks on the training of large-scale face recognition."""

__version__ = "0.1.0"
