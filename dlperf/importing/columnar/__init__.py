"""The fast reader. `LineReader(dialects).read(data, ...)` is its one door; docs/logs.md says how it works."""

from dlperf.importing.columnar.lines import ChunkLines, LineReader

__all__ = ["ChunkLines", "LineReader"]
