"""CASE_FILE...: three updates of each case; every trained array before and after, and its gradient.

`<case>/<step>/` precedes the arrays of a case, which is named like its file. The gradients are random: they
are arguments of the update, and to compile a training for each case would take minutes.
"""

import sys
from pathlib import Path

import jax
import numpy as np

from frameworks.common.case import Case, read_case
from frameworks.common.initial import CLASSIFIER, initial_arrays
from frameworks.common.networks import layers_of, parameters
from frameworks.common.schedule import learning_rate
from frameworks.jax.optimizer import make_optimizer


def steps(case: Case) -> "dict[str, np.ndarray]":
    names = (*(spec.name for spec in parameters(layers_of(case))), CLASSIFIER)
    initial = initial_arrays(case, range(case.num_classes))
    arrays = {name: initial[name] for name in names}
    momenta = (
        {name: np.zeros_like(array) for name, array in arrays.items()} if case.optimizer.momentum else {}
    )
    update, stream, found = jax.jit(make_optimizer(case).update), np.random.default_rng(0), {}
    for iteration in range(3):
        made = {name: stream.standard_normal(a.shape).astype(np.float32) for name, a in arrays.items()}
        found.update({f"{iteration}/before/{name}": array for name, array in arrays.items()})
        found.update({f"{iteration}/gradient/{name}": array for name, array in made.items()})
        rate = np.float32(learning_rate(case.schedule, iteration))
        arrays, momenta = jax.tree.map(np.asarray, tuple(update(arrays, momenta, made, rate)))
        found.update({f"{iteration}/after/{name}": array for name, array in arrays.items()})
    return found


def main() -> None:
    results = {}
    for path in map(Path, sys.argv[1:-1]):
        results.update({f"{path.stem}/{name}": array for name, array in steps(read_case(str(path))).items()})
    np.savez(sys.argv[-1], **results)


main()
