"""Figures to documents: tables, charts, text."""
