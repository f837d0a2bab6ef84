"""What dlperf runs on a node of a cluster; it needs only the node's own Python 3.8 or newer.

    python -m frameworks.node WORK                      answers requests during a sweep (attend.py)
    python -m frameworks.node WORK run NAME BYTES       takes a run's files, becomes its supervisor
    python -m frameworks.node WORK fetch NAME           writes logs and outcome of a run as a tar
    python -m frameworks.node WORK put[-program] PATH   stores standard input

WORK is the folder of everything that dlperf keeps on the node: code, environments, tools, runs.
docs/formats.md, "Nodes", lists the requests.
"""


class Refused(Exception):
    """A request that cannot be met; the text says why."""
