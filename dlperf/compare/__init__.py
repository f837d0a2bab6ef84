"""Two sides of results and what may be said about their difference: pure, from values to values."""
