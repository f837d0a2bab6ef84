"""Trains; prints its speed every FREQUENT batches."""

import logging
import os
import pathlib
import time

import numpy as np
from config import config
from net import Net

FREQUENT = 50
LINES = {
    "process": "Epoch[%(epoch)d] Batch [%(batch)d]\tSpeed: %(speed).2f samples/sec\tacc=0.5\tlossvalue=%(loss).6f",
    "job": "Training: %(time)s-Speed %(speed).2f samples/sec   Loss %(loss).4f   LearningRate 0.1   "
    "Epoch: %(epoch)d   Global Step: %(batch)d   Required: 1 hours",
}


def meet(rank, ranks, batch):
    """Wait until every rank has come as far, as ranks that add up gradients do."""
    pathlib.Path(f"new-{rank}").write_text(str(batch))
    os.replace(f"new-{rank}", f"met-{rank}")
    others = [pathlib.Path(f"met-{other}") for other in range(ranks)]
    while any(not path.exists() or int(path.read_text()) < batch for path in others):
        time.sleep(0.001)


def main():
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rank = int(os.environ.get("TRAINER_RANK", "0"))
    ranks = int(os.environ.get("TRAINER_RANKS", "1"))
    net = Net(config["pixels"], config["classes"], seed=rank)
    random = np.random.default_rng(rank)
    images = random.normal(size=(config["batch_size"], config["pixels"]))
    labels = random.integers(0, config["classes"], config["batch_size"])
    records = open(config["records"], "rb", buffering=0) if config["records"] else None
    logging.info("rank %d of %d, pid %d, CPUs %s", rank, ranks, os.getpid(), sorted(os.sched_getaffinity(0)))
    per_line = config["batch_size"] * FREQUENT * (ranks if config["line"] == "job" else 1)
    batch, began = 0, time.perf_counter()
    while not config["batches"] or batch < config["batches"]:
        batch += 1
        if records is not None and not records.read(1000):
            records.seek(0)
        loss, gradient = net.gradient(images, labels)
        net.update(gradient, 1e-4)
        if batch % FREQUENT == 0:
            meet(rank, ranks, batch)
            now = time.perf_counter()
            facts = {
                "epoch": batch // 1000,
                "batch": batch,
                "speed": per_line / (now - began),
                "loss": loss,
                "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            }
            logging.info(LINES[config["line"]], facts)
            time.sleep(config["pause"])
            began = time.perf_counter()


if __name__ == "__main__":
    main()
