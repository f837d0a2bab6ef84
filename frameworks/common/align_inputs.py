"""Make the inputs of an alignment: `python -m frameworks.common.align_inputs CASE_FILE INPUTS.npz STEPS`.

Needs numpy alone; weights and batches come from the case's seed.
"""

import sys
from typing import Dict

import numpy as np

from frameworks.common.case import Case, read_case
from frameworks.common.data import batches
from frameworks.common.initial import CLASSIFIER, initial_buffers, initial_classifier, initial_parameters
from frameworks.common.networks import build


def align_inputs(case: Case, steps: int) -> Dict[str, np.ndarray]:
    """The arrays of INPUTS.npz: what a training of this case would start with, and its first batches."""
    layers = build(case.network, case.head, case.embedding_size, case.dropout)
    classifier = initial_classifier(
        0, case.num_classes, case.embedding_size, case.classifier_init_std, case.seed
    )
    parameters = {**initial_parameters(layers, case.seed), CLASSIFIER: classifier}
    made = batches(case, 0, steps)
    return {
        **{"parameter/" + name: array for name, array in parameters.items()},
        **{"buffer/" + name: array for name, array in initial_buffers(layers).items()},
        "images": np.stack([images for images, _ in made]),
        "labels": np.stack([labels for _, labels in made]),
    }


if __name__ == "__main__":
    np.savez(sys.argv[2], **align_inputs(read_case(sys.argv[1]), int(sys.argv[3])))
