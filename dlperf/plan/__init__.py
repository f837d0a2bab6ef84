"""Sweep files in, a plan out: the cases of the grid, what cannot run and why, and the order of the runs."""
