"""tools/cuda_code.py reads what a library has for GPUs."""

from __future__ import annotations

import struct
import subprocess
import sys
import zipfile
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "tools" / "cuda_code.py"
NAMES = b"\0.nv_fatbin\0.shstrtab\0"


def entry(kind: int, capability: int, content: bytes) -> bytes:
    """One file of a fat binary: 1 is PTX, 2 machine code."""
    return struct.pack("<HHIQ12xI32x", kind, 0x101, 64, len(content), capability) + content


def library(*entries: bytes) -> bytes:
    """An ELF file of a megabyte with one fat binary."""
    files = b"".join(entries)
    fat = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(files)) + files
    head = b"\x7fELF" + bytes(36) + struct.pack("<Q", 64) + bytes(10) + struct.pack("<HHH", 64, 3, 2)
    start = 64 + 3 * 64
    table = bytes(64)
    table += struct.pack("<IIQQQQ", 1, 1, 0, 0, start + len(NAMES), len(fat)) + bytes(24)
    table += struct.pack("<IIQQQQ", 12, 3, 0, 0, start, len(NAMES)) + bytes(24)
    return (head + table + NAMES + fat).ljust(1 << 20 | 1, b"\0")


def test_machine_code_and_ptx_are_counted_in_wheels_folders_and_files(tmp_path: Path) -> None:
    found = library(entry(2, 100, b"x" * 40), entry(2, 86, b"y" * 8), entry(2, 86, b""), entry(1, 75, b"z"))
    (tmp_path / "liba.so.1").write_bytes(found)
    (tmp_path / "libsmall.so").write_bytes(found[:1000])
    wheel = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a/liba.so.1", found)
    arguments = [str(tmp_path), str(wheel), str(tmp_path / "liba.so.1")]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True, check=True
    )
    code = "sm 8.6 (2), sm 10.0 (1), PTX 7.5 (1)"
    assert [f"liba.so.1: {code}", f"a/liba.so.1: {code}", f"liba.so.1: {code}"] == done.stdout.splitlines()
