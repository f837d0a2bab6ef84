"""Which NVIDIA GPUs the libraries of a wheel have code for: machine code (sm) and PTX by compute capability.

    python tools/cuda_code.py WHEEL-OR-FOLDER-OR-LIBRARY...

Reads the section `.nv_fatbin` of each library itself, as cuobjdump does; the tables of the adapters and of
docs/environments.md come from it.
"""

import mmap
import struct
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

_CONTAINER_MAGIC = struct.pack("<I", 0xBA55ED50)
_KINDS = {1: "PTX", 2: "sm"}
_SMALLEST_BYTES = 1 << 20  # of a library with kernels


def sections(data: mmap.mmap | bytes, name: str) -> Iterator[tuple[int, int]]:
    """Start and end of the sections of this name in a little-endian ELF file of 64 bits."""
    (table,) = struct.unpack_from("<Q", data, 40)
    entry_size, count, names_index = struct.unpack_from("<HHH", data, 58)
    entries = [struct.unpack_from("<IIQQQQ", data, table + entry_size * number) for number in range(count)]
    names = entries[names_index][4]
    for name_offset, _kind, _flags, _address, offset, size in entries:
        start = names + name_offset
        if data[start : start + len(name) + 1] == name.encode() + b"\0":
            yield offset, offset + size


def code(data: mmap.mmap | bytes) -> Counter[str]:
    """`sm 8.0` and `PTX 7.5` -> how many kernels files of it an ELF file holds."""
    found: Counter[str] = Counter()
    for start, end in sections(data, ".nv_fatbin"):
        position = data.find(_CONTAINER_MAGIC, start, end)
        while position >= 0:
            header, size = struct.unpack_from("<HQ", data, position + 6)
            entry, last = position + header, position + header + size
            while entry < last:
                kind, entry_header, entry_size = struct.unpack_from("<H2xIQ", data, entry)
                (capability,) = struct.unpack_from("<I", data, entry + 28)
                found[f"{_KINDS.get(kind, kind)} {capability // 10}.{capability % 10}"] += 1
                entry += entry_header + entry_size
            position = data.find(_CONTAINER_MAGIC, last, end)
    return found


def libraries(path: Path, scratch: Path) -> Iterator[tuple[str, Path]]:
    """The large ELF files of a wheel, of a folder, or the one that the path is; with their names there."""
    if path.is_dir():
        for file in sorted(path.rglob("*.so*")):
            yield str(file.relative_to(path)), file
    elif path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            for info in wheel.infolist():
                if ".so" in Path(info.filename).name and info.file_size > _SMALLEST_BYTES:
                    file = Path(wheel.extract(info, scratch))
                    yield info.filename, file
                    file.unlink()
    else:
        yield path.name, path


def main() -> None:
    """Print a line per library that has code for GPUs."""
    for argument in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as scratch:
            for name, file in libraries(Path(argument), Path(scratch)):
                if file.stat().st_size < _SMALLEST_BYTES:
                    continue
                with (
                    file.open("rb") as stream,
                    mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
                ):
                    found = code(data) if data[:4] == b"\x7fELF" else Counter()
                if found:
                    sys.stdout.write(f"{name}: {', '.join(_shown(found))}\n")


def _shown(found: Counter[str]) -> Iterator[str]:
    """Machine code before PTX, ascending."""
    for what in sorted(found, key=lambda what: (what.startswith("PTX"), float(what.split()[1]))):
        yield f"{what} ({found[what]})"


if __name__ == "__main__":
    main()
