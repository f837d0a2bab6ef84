"""Batches of a share in RecordIO, decoded by OpenCV, for the engines that have no reader of their own."""

import os

import numpy as np

from frameworks.common.data import Batch
from frameworks.common.dataset import DataError, Share, recordio_image, recordio_record
from frameworks.common.networks import INPUT_SHAPE


class DecodedBatches:
    """The batches of a share by their number; behind its last image comes the first."""

    def __init__(self, share: Share, batch_size: int) -> None:
        """Open the file, which forked processes must not share: each makes its own object."""
        import cv2  # noqa: PLC0415 - a Python of the user's own may lack it, and train without a data set

        cv2.setNumThreads(0)  # whoever calls is one thread of several
        self._decode = lambda content: cv2.imdecode(content, cv2.IMREAD_COLOR)
        self._share, self._batch_size = share, batch_size
        self._file = os.open(share.files[0], os.O_RDONLY)

    def batch(self, number: int) -> Batch:
        """Images uint8 [B, 3, 112, 112] in RGB and labels int64 [B]; DataError of a damaged one."""
        channels, height, width = INPUT_SHAPE
        images = np.empty((self._batch_size, channels, height, width), np.uint8)
        labels = np.empty(self._batch_size, np.int64)
        for row in range(self._batch_size):
            place = (number * self._batch_size + row) % self._share.images
            record = recordio_record(self._file, self._share, place)
            content, labels[row] = recordio_image(self._file, record)
            pixels = self._decode(np.frombuffer(content, np.uint8)) if content else None
            if pixels is None or pixels.shape != (height, width, channels):
                what = "no image" if pixels is None else f"an image of {pixels.shape[1]} x {pixels.shape[0]}"
                raise DataError(
                    record.file, f"{what}, not one of {width} x {height} pixels", record.number, record.offset
                )
            images[row] = pixels[:, :, ::-1].transpose(2, 0, 1)
        return images, labels

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
