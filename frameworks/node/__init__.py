"""What dlperf runs on a node of a cluster, with the node's own Python 3.8 or newer and the standard library.

    python -m frameworks.node WORK                      answers requests while a sweep goes on (attend.py)
    python -m frameworks.node WORK run NAME BYTES       takes a run's files, becomes its supervisor (runs.py)
    python -m frameworks.node WORK fetch NAME           writes logs and outcome of a run as a tar (runs.py)
    python -m frameworks.node WORK put[-program] PATH   keeps what comes on standard input (runs.py)

WORK is the folder that holds everything that dlperf leaves on the node: code, environments, tools, runs.
docs/architecture.md, "Nodes", has the requests.
"""


class Refused(Exception):
    """Something that cannot be done; the text says why."""
