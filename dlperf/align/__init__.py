"""Proof by machine that frameworks compute the same function; docs/alignment.md says how."""
