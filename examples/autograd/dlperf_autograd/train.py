"""Train a case with Autograd: the program of one rank."""

import time
from importlib.metadata import version

import autograd.numpy as np
import numpy
from autograd import value_and_grad
from autograd.tracer import getval
from network import forward

from frameworks.common import program
from frameworks.common.initial import CLASSIFIER, initial_arrays
from frameworks.common.loop import FinishedStep
from frameworks.common.margin import COSINE_LIMIT, has_angular_margin
from frameworks.common.networks import layers_of
from frameworks.common.schedule import learning_rate


class AutogradTrainer:
    """`Trainer` of frameworks/common/loop.py."""

    phases = None  # where a step's time goes is not told

    def __init__(self, case, arrays, buffers):
        self.case, self.arrays, self.buffers = case, arrays, buffers
        self.layers = layers_of(case)
        self.momentum = {name: numpy.zeros_like(array) for name, array in arrays.items()}
        self.loss_and_gradients = value_and_grad(self.loss)

    def start_window(self):
        """Nothing runs behind our back: there is nothing to wait for."""
        self.window_start = time.perf_counter()

    def loss(self, arrays, images, labels):
        """Of float32 images, scaled; a scalar."""
        embeddings = forward(self.layers, images, arrays, self.buffers)
        return margin_softmax(embeddings, arrays[CLASSIFIER], labels, self.case.loss)

    def step(self, batch, iteration):
        """Forward pass, backward pass and update; done at return."""
        images, labels = batch
        scaled = (images.astype(numpy.float32) - numpy.float32(127.5)) / numpy.float32(128)
        loss, gradients = self.loss_and_gradients(self.arrays, scaled, labels)
        rate, sgd = learning_rate(self.case.schedule, iteration), self.case.optimizer
        for name, array in self.arrays.items():
            slope = gradients[name] + sgd.weight_decay * array
            self.momentum[name] = sgd.momentum * self.momentum[name] - rate * slope
            self.arrays[name] = array + self.momentum[name]
        return FinishedStep(float(loss), self.window_start)


def margin_softmax(embeddings, weight, labels, loss):
    """As frameworks/common/margin.py defines it."""
    unit = [rows / np.sqrt(np.sum(rows**2, axis=1, keepdims=True)) for rows in (embeddings, weight)]
    cosine = target = np.dot(unit[0], unit[1].T)
    if has_angular_margin(loss):
        theta = np.arccos(np.clip(cosine, -COSINE_LIMIT, COSINE_LIMIT))
        target = np.cos(loss.m1 * theta + loss.m2)
    true = labels[:, None] == numpy.arange(weight.shape[0])
    logits = loss.scale * np.where(true, target - loss.m3, cosine)
    largest = getval(logits).max(axis=1, keepdims=True)
    log_total = largest[:, 0] + np.log(np.sum(np.exp(logits - largest), axis=1))
    return np.mean(log_total - np.sum(np.where(true, logits, 0.0), axis=1))


def make_trainer(case, _rank, _batches):
    """A trainer with the initial weights of the case's seed, the same in every framework."""
    arrays = initial_arrays(case, range(case.num_classes))
    buffers = {name: arrays.pop(name) for name in list(arrays) if ".running_" in name}
    return AutogradTrainer(case, arrays, buffers)


def facts(case):
    """What runs, for the log."""
    return {"version": version("autograd"), "device": case.device, "threads": case.threads_per_device}


def matmul_flops_per_second(_case):
    """The best of five products of two square float32 matrices."""
    size, best = 2048, float("inf")
    square = numpy.ones((size, size), numpy.float32)
    for _ in range(5):
        start = time.perf_counter()
        numpy.matmul(square, square)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


if __name__ == "__main__":
    program.run(make_trainer, facts, matmul_flops_per_second)
