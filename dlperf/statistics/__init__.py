"""Pure functions over numbers: intervals, change points, variances, many tests at once."""
