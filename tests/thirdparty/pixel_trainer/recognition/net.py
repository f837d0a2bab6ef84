"""A linear classifier of pixels, trained by gradient descent."""

import numpy as np


class Net:
    def __init__(self, pixels, classes, seed):
        if classes < 2:
            raise ValueError(f"a classifier of {classes} classes cannot be trained")
        self.weights = np.random.default_rng(seed).normal(0, 0.01, (pixels, classes))

    def gradient(self, images, labels):
        logits = images @ self.weights
        scores = np.exp(logits - logits.max(1, keepdims=True))
        scores /= scores.sum(1, keepdims=True)
        rows = np.arange(len(labels))
        loss = -np.log(scores[rows, labels]).mean()
        scores[rows, labels] -= 1
        return loss, images.T @ scores / len(labels)

    def update(self, gradient, rate):
        self.weights -= rate * gradient
