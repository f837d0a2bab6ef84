"""CASE_FILE OUT: whether its case is compiled by default on GPUs of some capabilities, and if it asks for it.

There may be no GPU: what torch says of its capability is replaced.
"""

import sys

import numpy as np
import torch

from frameworks.common.case import read_case
from frameworks.pytorch.settings import uses_compile


def main() -> None:
    case = read_case(sys.argv[1])._replace(device="cuda", options={})
    found = {}
    for capability in ((6, 0), (7, 0), (9, 0)):
        torch.cuda.get_device_capability = lambda _device, capability=capability: capability
        asked = case._replace(options={"compile": capability[0] < 7})
        found[str(capability[0])] = (uses_compile(case), uses_compile(asked))
    np.savez(sys.argv[2], **found)


main()
