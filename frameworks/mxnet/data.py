"""MXNet's own reader of a data set: ImageRecordUInt8Iter, which decodes with the OpenCV in the wheel."""

import tempfile
from typing import Tuple

import mxnet as mx
import numpy as np

from frameworks.common import read_alone
from frameworks.common.data import Batch
from frameworks.common.dataset import RECORDIO, Share
from frameworks.common.networks import INPUT_SHAPE
from frameworks.common.reading import PREFETCHED_BATCHES


class MXNetReader:
    """`Reader` of frameworks/common/reading.py. A damaged record ends the process."""

    form = RECORDIO
    processes: Tuple[int, ...] = ()

    def __init__(self, share: Share, batch_size: int, threads: int) -> None:
        # MXNet decodes with at most half of the processors less one.
        with tempfile.NamedTemporaryFile("w", suffix=".idx") as index:
            index.write(_index_of(share))
            index.flush()
            self._batches = mx.io.ImageRecordUInt8Iter(
                path_imgrec=share.files[0],
                path_imgidx=index.name,
                # The first of two parts: see _index_of.
                num_parts=2,
                part_index=0,
                data_shape=INPUT_SHAPE,
                batch_size=batch_size,
                preprocess_threads=threads,
                prefetch_buffer=PREFETCHED_BATCHES,
                round_batch=True,  # a batch goes on at the first image behind the last
                shuffle=False,
                verbose=False,
                device_id=-1,  # in ordinary memory, from which the program copies
            )

    def next(self) -> Batch:
        """See `Reader`."""
        try:
            batch = self._batches.next()
        except StopIteration:
            self._batches.reset()  # goes on behind the images that filled the last batch
            batch = self._batches.next()
        return batch.data[0].asnumpy(), batch.label[0].asnumpy().astype(np.int64)

    def close(self) -> None:
        """See `Reader`."""
        del self._batches


def _index_of(share: Share) -> str:
    """An index for MXNet's reader whose first half is the share.

    The reader takes all bytes from a record of the index to the next one, for the last to the end of the
    file, and fails on records without an image, such as those that InsightFace puts behind the images. It
    reads the first of two parts, so that the second, which is never read, says where the share ends.
    """
    count = share.images
    offsets = [*share.offsets[:count], *[share.offsets[count]] * count]
    return "".join(f"{key}\t{offset}\n" for key, offset in enumerate(offsets))


if __name__ == "__main__":
    read_alone.run(MXNetReader)
