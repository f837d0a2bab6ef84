"""Data sets of faces on disk, in MXNet's and in OneFlow's format; docs/data.md describes them."""
