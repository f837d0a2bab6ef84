"""Gradients of three ranks, a float16 and a float32 one, added up in each dtype: prints what every rank gets.

From 2048 on float16 has only even numbers: in it 2049 is 2048, and 2048 + 1 + 1 depends on the order.
"""

import json
from types import SimpleNamespace

import mxnet as mx

from frameworks.common.case import rank_from_environment
from frameworks.common.phases import Phases
from frameworks.mxnet.parallel import HorovodRanks
from frameworks.mxnet.rendezvous import meet

VALUES = {"float16": (2048.0, 1.0, 1.0), "float32": (2049.0, 0.0, 0.0)}

rank = rank_from_environment()
horovod, sums = meet(rank), {}
for dtype in ("float32", "float16"):
    ranks = HorovodRanks([mx.cpu(0)], Phases(mx.nd.waitall), rank.world_size, horovod, dtype)
    gradients = [mx.nd.full(4, of_ranks[rank.rank], dtype=own) for own, of_ranks in VALUES.items()]
    parameters = [SimpleNamespace(grad=lambda array=array: array) for array in gradients]
    ranks.total_gradients(None, parameters)
    sums[dtype] = {str(array.dtype.__name__): float(array.asnumpy()[0]) for array in gradients}
print(json.dumps(sums))  # noqa: T201
