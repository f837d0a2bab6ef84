"""Batches from a data set: their order, mirrored images, labels, memory, and what is counted."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from face_sets import made

from dlperf.adapters.base import PREFETCHED_BATCHES, computing_threads
from dlperf.plan.case import Case as PlannedCase
from dlperf.plan.case import DataSet
from frameworks.common import reading
from frameworks.common.case import Case, Rank, case_from_dict
from frameworks.common.dataset import RECORDIO, DataError, Share
from frameworks.common.reading import Batches, mirror_coins, split_threads

IMAGES = 10


class NumberedReader:
    """A reader in numpy whose image k is k in its left half and k + 100 in its right half; its label is k."""

    form = RECORDIO
    processes = ()

    def __init__(self, share: Share, batch_size: int, _threads: int) -> None:
        self.share, self.size, self.given = share, batch_size, 0

    def next(self) -> tuple[np.ndarray, np.ndarray]:
        labels = self.share.first + np.arange(self.given, self.given + self.size) % self.share.images
        self.given += self.size
        images = np.repeat(labels.astype(np.uint8), 3 * 112 * 112).reshape(self.size, 3, 112, 112).copy()
        images[:, :, :, 56:] += 100
        return images, labels

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return made(tmp_path_factory.mktemp("data") / "faces", images=IMAGES)


def case_with(content: dict, data: DataSet, **changes: object) -> Case:
    whole = copy.deepcopy(content)
    return case_from_dict({**whole, "data": data.model_dump(mode="json"), **changes})


def rank(number: int = 0, *, devices: int = 1, world: int = 1) -> Rank:
    return Rank(number, number, 0, world, world, devices, "", 0, None)


def of_labels(batches: Batches, count: int) -> list[list[int]]:
    return [next(batches)[1].tolist() for _ in range(count)]


def test_a_batch_goes_on_at_the_first_image_behind_the_last(case_content: dict, data: DataSet) -> None:
    batches = Batches(case_with(case_content, data), rank(), NumberedReader)
    assert [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1], [2, 3, 4, 5]] == of_labels(batches, 4)


@pytest.mark.parametrize("read", ["warm", "memory"])
def test_devices_take_shares_one_behind_the_other(case_content: dict, data: DataSet, read: str) -> None:
    topology = {"nodes": 1, "devices_per_node": 2}
    case = case_with(case_content, data.model_copy(update={"read": read}), topology=topology)
    first, second = (of_labels(Batches(case, rank(number, world=2), NumberedReader), 2) for number in (0, 1))
    both = of_labels(Batches(case, rank(devices=2, world=2), NumberedReader), 2)

    assert [[0, 1, 2, 3], [4, 0, 1, 2]] == first
    assert [[5, 6, 7, 8], [9, 5, 6, 7]] == second
    assert [one + other for one, other in zip(first, second, strict=True)] == both


def test_memory_gives_the_same_batches(case_content: dict, data: DataSet) -> None:
    warm = Batches(case_with(case_content, data), rank(), NumberedReader)
    held = data.model_copy(update={"read": "memory"})
    memory = Batches(case_with(case_content, held), rank(), NumberedReader)
    for _ in range(6):
        (images, labels), (others, other_labels) = next(warm), next(memory)
        assert (images == others).all()
        assert (labels == other_labels).all()


def test_an_image_is_mirrored_or_as_it_was_by_its_coin(case_content: dict, data: DataSet) -> None:
    batches = Batches(case_with(case_content, data), rank(), NumberedReader)
    images = np.concatenate([next(batches)[0] for _ in range(10)])
    epochs, numbers = np.divmod(np.arange(40), IMAGES)

    is_mirrored = images[:, 0, 0, 0] >= 100

    assert mirror_coins(0, epochs * IMAGES + numbers).tolist() == is_mirrored.tolist()
    plain = np.where(is_mirrored, images[:, 0, 0, 111], images[:, 0, 0, 0])
    assert numbers.tolist() == plain.tolist()
    assert 0 < is_mirrored[:10].sum() < 10
    assert is_mirrored[:10].tolist() != is_mirrored[10:20].tolist()  # another coin in each epoch


def test_coins_are_even_and_differ_by_seed() -> None:
    coins = [mirror_coins(seed, np.arange(10_000)) for seed in range(4)]
    for coin in coins:
        assert 4800 < coin.sum() < 5200
        assert 4800 < (coin[1:] == coin[:-1]).sum() < 5200
    assert 4800 < (coins[0] == coins[1]).sum() < 5200


def test_a_label_beyond_the_classes_is_a_data_error(case_content: dict, data: DataSet) -> None:
    batches = Batches(case_with(case_content, data, num_classes=6), rank(), NumberedReader)
    next(batches)
    with pytest.raises(DataError, match=r"image 6 of the data set: label 6, but .* the classes 0 to 5"):
        next(batches)


def test_what_is_read_and_waited_for_is_counted(case_content: dict, data: DataSet) -> None:
    batches = Batches(case_with(case_content, data), rank(), NumberedReader)
    before = batches.counters()
    Path(data.path, "train.rec").read_bytes()
    next(batches)

    counted = batches.since(before)

    assert 0 < counted["wait_seconds"] <= counted["seconds"]
    assert counted["read_bytes"] >= Path(data.path, "train.rec").stat().st_size
    assert counted["read_mib_per_second"] > 0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_both_sides_split_threads_by_one_rule(case_content: dict, data: DataSet, device: str) -> None:
    for threads in range(1, 17):
        content = {**copy.deepcopy(case_content), "threads_per_device": threads, "device": device}
        content["data"] = data.model_dump(mode="json")
        split = split_threads(case_from_dict(content))
        assert split.computing == computing_threads(PlannedCase.model_validate_json(json.dumps(content)))
        assert split.reading >= 1
        if threads >= 4:
            assert threads == split.computing + split.reading
    assert (2, 0) == split_threads(case_from_dict(case_content))
    assert PREFETCHED_BATCHES == reading.PREFETCHED_BATCHES
