"""launch.json as the supervisor reads it; docs/architecture.md describes it."""

import json
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional


class RankSpec(NamedTuple):
    """One process to start; `env` is added to what is inherited, `cpus` empty leaves it unbound.

    `memory_bytes` is its budget, None for none.
    """

    rank: int
    argv: List[str]
    env: Dict[str, str]
    cpus: List[int]
    log: str
    memory_bytes: Optional[int] = None


class Launch(NamedTuple):
    """launch.json. A limit of None does not exist."""

    node_rank: int
    ranks: List[RankSpec]
    inherit: List[str]
    time_limit: Optional[float]
    stall_limit: Optional[float]
    lease: Optional[float]
    grace: float


def read_launch(path: str) -> Launch:
    """Read launch.json; OSError, ValueError, KeyError or TypeError where it is none."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    if content["schema_version"] != 1:
        raise ValueError("schema_version is {!r}, not 1".format(content["schema_version"]))
    return Launch(
        node_rank=content.get("node_rank", 0),
        ranks=[RankSpec(**rank) for rank in content["ranks"]],
        inherit=content["inherit"],
        time_limit=content["time_limit_seconds"],
        stall_limit=content["stall_limit_seconds"],
        lease=content["lease_seconds"],
        grace=content["grace_seconds"],
    )
