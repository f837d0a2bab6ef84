"""Checkouts of the original training programs, for the tests that need one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest


def checkout(variable: str, *, url: str, commit: str) -> Path:
    """The git checkout that the environment variable names; skips the test where it names none."""
    folder = os.environ.get(variable)
    steps = f"git clone {url} FOLDER && git -C FOLDER checkout {commit[:8]}"
    if not folder:
        pytest.skip(f"{variable} names no checkout; make one: {steps}, and set {variable}=FOLDER")
    head = subprocess.run(
        ["git", "-C", folder, "rev-parse", "HEAD"], check=False, capture_output=True, text=True
    )
    if head.stdout.strip() != commit:
        found = head.stdout.strip() or head.stderr.strip()
        pytest.fail(f"{variable}={folder} is not at {commit[:8]} ({found}); make it: {steps}")
    return Path(folder)
