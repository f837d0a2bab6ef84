"""The OneFlow training program: one nn.Graph a step."""

import os

from frameworks.oneflow.blas import choose_core

# OneFlow reads it when it is first imported, so no module of this folder comes earlier.
choose_core(os.environ)
