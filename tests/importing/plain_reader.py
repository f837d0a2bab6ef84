"""The reference for the fast way of reading: every line and every number by itself."""

from __future__ import annotations

import datetime as dt
import re
import zlib
from typing import TYPE_CHECKING

from dlperf.importing.columnar.cells import find_records
from dlperf.importing.records import FIELDS

if TYPE_CHECKING:
    from dlperf.importing.dialects.base import Dialect


def read_alone(line: bytes, dialect: Dialect) -> list[list[float | None]]:
    """What a line says, each number read by Python from the pattern's match in this very line."""
    rows = []
    for item in find_records(line, [dialect]):
        row: list[float | None] = [None] * len(FIELDS)
        for cell in item.cells:
            text = line[cell.start : cell.end].decode()
            if cell.group == "metric":
                row[cell.column] = float(zlib.crc32(re.sub(r"\d", "0", text).encode()))
            else:
                row[cell.column] = instant(text) if cell.group == "time" else float(text)
        rows.append(row)
    return rows


def instant(text: str) -> float | None:
    """Milliseconds since 1970, whole ones; None where there is no such time of day or zone."""
    whole, _separator, rest = text.replace("T", " ").replace(",", ".").replace("/", "-").partition(".")
    digits = re.match(r"\d*", rest)
    fraction = digits[0] if digits else ""
    zone = re.search(r"(Z|[-+]\d\d:?\d\d)$", text[11:])
    try:
        day = dt.date.fromisoformat(whole[:10]).toordinal() - dt.date(1970, 1, 1).toordinal()
    except ValueError:
        return None
    hours, minutes, seconds = (int(part) for part in whole[11:19].split(":"))
    ahead = 0
    if zone is not None and zone[1] != "Z":
        sign, hour, minute = zone[1][0], zone[1][1:3], zone[1][-2:]
        ahead = (int(hour) * 60 + int(minute)) * (-1 if sign == "-" else 1)
    of_day = (hours * 60 + minutes - ahead) * 60_000 + seconds * 1000
    return float(day * 86_400_000 + of_day + int(fraction[:3].ljust(3, "0")))
