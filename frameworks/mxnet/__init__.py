"""The MXNet training program: hybridized Gluon."""

import os

from frameworks.mxnet.blas import choose_core, installed_version

# OpenBLAS reads the environment when MXNet is first imported; no other module of this folder comes earlier.
choose_core(os.environ, installed_version())
