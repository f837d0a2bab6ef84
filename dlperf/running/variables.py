"""Environment variables: which reach the ranks, which are secret, which are misspelt."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# What a rank gets of the user's environment, as shell patterns: where things lie, the language, the tuning of
# engines and devices. All else stays out, so that two shells on one machine measure the same.
INHERITED: Final = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_*",
    "TZ",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "LD_LIBRARY_PATH",
    "CUDA_*",
    "NVIDIA_*",
    "NCCL_*",
    "GLOO_*",
    "UCX_*",
    "HOROVOD_*",
    "ONEFLOW_*",
    "MXNET_*",
    "TORCH_*",
    "TORCHINDUCTOR_*",
    "CC",  # torch.compile builds with it
    "CXX",
    "PYTORCH_*",
    "TRITON_*",
    "OMP_*",
    "GOMP_*",
    "KMP_*",
    "MKL_*",
    "ONEDNN_*",
    "DNNL_*",
)

_SECRET = ("*TOKEN*", "*KEY*", "*SECRET*", "*PASSWORD*", "*PASSWD*", "*CREDENTIAL*")
REDACTED: Final = "(redacted)"

# Where a tuning that was meant for an engine is lost without a word when its prefix is misspelt.
_ENGINE_PREFIXES = ("HOROVOD", "NCCL", "ONEFLOW", "MXNET")


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a rank takes over; the supervisor on the node applies the same patterns."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in INHERITED)
    }


def redacted(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables with the values of secrets left out."""
    return {name: REDACTED if _is_secret(name) else value for name, value in environment.items()}


def _is_secret(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name.upper(), pattern) for pattern in _SECRET)


def misspelt(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables whose prefix is one slip away from an engine's: their name -> the prefix that was meant."""
    found = {}
    for name in sorted(environment):
        prefix = name.partition("_")[0]
        meant = next((right for right in _ENGINE_PREFIXES if _one_slip(prefix, right)), None)
        if meant is not None:
            found[name] = f"{meant}_"
    return found


def _one_slip(word: str, right: str) -> bool:
    """Whether one letter is missing, doubled, added or wrong, or two neighbours are swapped."""
    if word == right or abs(len(word) - len(right)) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(word, right, strict=False)) if a != b), len(right))
    mine, theirs = word[start:], right[start:]
    return (
        mine[1:] == theirs[1:]  # wrong
        or mine[1:] == theirs  # added
        or mine == theirs[1:]  # missing
        or (mine[:2] == theirs[1::-1] and mine[2:] == theirs[2:])  # swapped
    )
