"""The version of dlperf, apart from the package itself: importing it from there would be a circle."""

__version__ = "0.1.0"
