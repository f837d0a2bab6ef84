"""Runs in OneFlow's environment: `read FOLDER PARTS`, `parse PART`, `write PART`; prints JSON.

`write` gets a list of [label, hex of content] on standard input, and writes a part with OneFlow's protobuf.
"""

import hashlib
import json
import struct
import sys
from pathlib import Path

import oneflow as flow
import oneflow.core.record.record_pb2 as pb


def read(folder: str, parts: str, images: str) -> list:
    """Label and a hash of the pixels of each image, by OneFlow's reader and decoders."""
    reader = flow.nn.OFRecordReader(
        folder, batch_size=1, data_part_num=int(parts), part_name_suffix_length=5, random_shuffle=False
    )
    label = flow.nn.OFRecordRawDecoder("label", shape=(), dtype=flow.int32)
    image = flow.nn.OFRecordImageDecoder("encoded", color_space="RGB")
    size = flow.nn.image.Resize(target_size=[112, 112])
    found = []
    for _ in range(int(images)):
        record = reader()
        pixels = size(image(record))[0].numpy()
        found.append([int(label(record).numpy()[0]), hashlib.sha256(pixels.tobytes()).hexdigest()])
    return found


def parse(part: str) -> list:
    found = []
    with Path(part).open("rb") as stream:
        while head := stream.read(8):
            record = pb.OFRecord.FromString(stream.read(struct.unpack("<q", head)[0]))
            assert set(record.feature) == {"label", "encoded"}
            (label,) = record.feature["label"].int32_list.value
            (content,) = record.feature["encoded"].bytes_list.value
            found.append([label, content.hex()])
    return found


def write(part: str) -> None:
    with Path(part).open("wb") as stream:
        for label, content in json.load(sys.stdin):
            record = pb.OFRecord()
            record.feature["label"].int32_list.value.append(label)
            record.feature["encoded"].bytes_list.value.append(bytes.fromhex(content))
            message = record.SerializeToString()
            stream.write(struct.pack("<q", len(message)) + message)


sys.stdout.write(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
