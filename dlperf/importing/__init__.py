"""Logs of other programs, read once and turned into records and runs of ours."""
