"""Runs in MXNet's environment: `read SET`, `write SET`, `iterate SET INDEX PART PARTS`; prints JSON.

`write` gets a list of [key, label or labels, hex of content] on standard input.
"""

import hashlib
import json
import sys

import mxnet as mx
from mxnet import recordio


def read(folder: str) -> list:
    source = recordio.MXIndexedRecordIO(f"{folder}/train.idx", f"{folder}/train.rec", "r")
    found = []
    for key in source.keys:
        header, content = recordio.unpack(source.read_idx(key))
        label = float(header.label) if not header.flag else [float(value) for value in header.label]
        found.append([key, label, content.hex()])
    return found


def write(folder: str) -> None:
    target = recordio.MXIndexedRecordIO(f"{folder}/train.idx", f"{folder}/train.rec", "w")
    for key, label, content in json.load(sys.stdin):
        header = recordio.IRHeader(0, label, key, 0)
        target.write_idx(key, recordio.pack(header, bytes.fromhex(content)))
    target.close()


def iterate(folder: str, index: str, part: str, parts: str) -> list:
    """Label and a hash of the pixels of each image that ImageRecordIter reads."""
    batches = mx.io.ImageRecordIter(
        path_imgrec=f"{folder}/train.rec",
        path_imgidx=f"{folder}/{index}",
        data_shape=(3, 112, 112),
        batch_size=1,
        part_index=int(part),
        num_parts=int(parts),
        dtype="uint8",
    )
    return [
        [float(batch.label[0].asscalar()), hashlib.sha256(batch.data[0].asnumpy().tobytes()).hexdigest()]
        for batch in batches
    ]


sys.stdout.write(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
