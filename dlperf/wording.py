"""English for a terminal. A report, which is translated, says it with `dlperf.report.text`."""


def plural(count: int, noun: str, nouns: str = "") -> str:
    """`1 run`, `2 runs`; `nouns` where an s is not enough, such as `processes`."""
    return f"{count} {noun}" if count == 1 else f"{count} {nouns or noun + 's'}"
