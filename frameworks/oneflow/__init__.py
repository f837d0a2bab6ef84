"""The OneFlow training program: one nn.Graph a step, over all ranks."""

import os

from frameworks.oneflow.blas import choose_core
from frameworks.oneflow.rendezvous import wait_for_the_other_ranks

# OneFlow reads the environment when it is first imported, so no other module of this folder comes earlier.
choose_core(os.environ)
wait_for_the_other_ranks(os.environ)
