"""See the package's own description."""

import sys
from pathlib import Path

from frameworks.node import Refused


def main() -> int:
    """Do what the command line says; the exit code."""
    work, *words = sys.argv[1:]
    folder = Path(work).expanduser().absolute()
    try:
        if not words:
            from frameworks.node.attend import Attendant  # noqa: PLC0415  a run must not wait for its imports

            Attendant(folder).serve()
            return 0
        from frameworks.node import runs  # noqa: PLC0415

        if words[0] == "run":
            return runs.run(folder, words[1], int(words[2]))
        if words[0] == "fetch":
            return runs.fetch(folder, words[1])
        return runs.put(folder / words[1], executable=words[0] == "put-program")
    except (Refused, OSError, ValueError, EOFError) as error:
        print(f"dlperf on this node: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
