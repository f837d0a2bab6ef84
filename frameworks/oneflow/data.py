"""OneFlow's own reader of a data set: OFRecordReader, whose images its own decoder decodes with OpenCV."""

from pathlib import Path
from typing import Tuple

import numpy as np
import oneflow as flow
from oneflow import Tensor, nn

from frameworks.common import read_alone
from frameworks.common.data import Batch
from frameworks.common.dataset import OFRECORD, Share, find_parts
from frameworks.common.networks import INPUT_SHAPE


class OneFlowReader:
    """`Reader` of frameworks/common/reading.py. A damaged record ends the process."""

    form = OFRECORD
    processes: Tuple[int, ...] = ()

    def __init__(self, share: Share, batch_size: int, threads: int) -> None:
        del threads  # OneFlow decodes in the pool that it computes in
        parts = find_parts(str(Path(share.files[0]).parent))
        channels, height, width = INPUT_SHAPE
        # It gives each rank its share of the parts.
        self._records = nn.OFRecordReader(
            parts.folder,
            batch_size=batch_size,
            data_part_num=len(parts.names),
            part_name_suffix_length=parts.digits,
            random_shuffle=False,
            shuffle_after_epoch=False,
        )
        self._labels = nn.OFRecordRawDecoder("label", shape=(), dtype=flow.int32)
        self._images = nn.OFRecordImageDecoder("encoded", color_space="RGB")
        # Into one array. `image.batch_align`, which would keep bytes, waits for the step that is running.
        self._stack = nn.CropMirrorNormalize(
            color_space="RGB",
            output_layout="NCHW",
            crop_h=height,
            crop_w=width,
            mean=[0.0] * channels,
            std=[1.0] * channels,
        )
        self._queued = self._queue()

    def _queue(self) -> Tuple[Tensor, Tensor]:
        """Let the engine decode the next batch, float32 [B, 3, 112, 112] of whole numbers, and int32 [B]."""
        records = self._records()
        return self._stack(self._images(records)), self._labels(records)

    def next(self) -> Batch:
        """See `Reader`."""
        images, labels = (array.numpy() for array in self._queued)
        self._queued = self._queue()
        return images.astype(np.uint8), labels.astype(np.int64)

    def close(self) -> None:
        """See `Reader`."""
        del self._records, self._queued


if __name__ == "__main__":
    read_alone.run(OneFlowReader)
