"""The OneFlow training program: one nn.Graph per step, over all ranks.

The modules and their names are those of `frameworks/pytorch` and `frameworks/mxnet`, in the same order.
"""

import os

from frameworks.common.blas import choose_core
from frameworks.oneflow.rendezvous import meet

# OneFlow and its OpenBLAS read the environment when OneFlow is first imported, which only later modules of
# this folder do. The adapter sets this variable to `detected` to leave the choice of kernels to OpenBLAS.
if os.environ.get("DLPERF_ONEFLOW_OPENBLAS_CORE") != "detected":
    choose_core(os.environ)
meet(os.environ)
