"""Programs of the system that describe a node."""

import subprocess
from typing import Optional

TOOL_SECONDS = 20


def completed(*command: str, seconds: float = TOOL_SECONDS) -> "Optional[subprocess.CompletedProcess[str]]":
    """A tool's exit code and output; None if it is missing or takes longer than `seconds`."""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None


def output(*command: str) -> Optional[str]:
    """What a tool prints; None if it is missing, fails or hangs."""
    done = completed(*command)
    return None if done is None or done.returncode else done.stdout.strip()
