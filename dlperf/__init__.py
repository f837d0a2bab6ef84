"""dlperf benchmarks deep-learning frameworks on the training of large-scale face recognition.

`dlperf.load` reads results as pandas tables; docs/python.md shows how.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dlperf.version import __version__

if TYPE_CHECKING:
    from dlperf.results.query import Loaded

__all__ = ["__version__", "load"]


def load(*sources: str | Path, strict: bool = False) -> Loaded:
    """Read results as two pandas tables, `.runs` and `.cases`, whose columns docs/python.md lists.

    Args:
        sources: results folders, folders of single sweeps, or `published:NAME`; none reads `results`.
        strict: raise where a result file cannot be read, in place of listing it in `.results.skipped`.

    Raises:
        UserError: a source does not exist, there is no result in any, or (`strict`) one cannot be read.
    """
    from dlperf.results.query import load as load_all  # noqa: PLC0415 - `import dlperf` stays quick

    return load_all([Path(source) for source in sources] or [Path("results")], strict=strict)
