"""Who measures when: nodes by themselves, and pairs of nodes, several at a time."""

from typing import List, Optional, Tuple

Nodes = Tuple[int, ...]


def rounds_of_nodes(nodes: int, *, parallel: int) -> List[List[Nodes]]:
    """Each node once, `parallel` of them in a round."""
    each: List[Nodes] = [(node,) for node in range(nodes)]
    return [each[first : first + parallel] for first in range(0, nodes, parallel)]


def rounds_of_links(nodes: int, *, parallel: int) -> List[List[Nodes]]:
    """Each pair once, and no node twice in a round: a round-robin tournament by the circle method.

    A round has as many pairs as `parallel` nodes make, at least one.
    """
    circle: List[Optional[int]] = [*range(nodes), *([None] if nodes % 2 else [])]
    half, most = len(circle) // 2, max(1, parallel // 2)
    rounds: List[List[Nodes]] = []
    for _ in range(len(circle) - 1):
        both = zip(circle[:half], reversed(circle[half:]))
        pairs = [(min(a, b), max(a, b)) for a, b in both if a is not None and b is not None]
        rounds += [list(pairs[first : first + most]) for first in range(0, len(pairs), most)]
        circle = [circle[0], circle[-1], *circle[1:-1]]
    return rounds
