from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frameworks.common.case import Loss
from frameworks.common.margin import COSINE_LIMIT, class_range, has_angular_margin, margin_softmax

PLAIN = Loss("softmax", 64.0, 1.0, 0.0, 0.0)
ARCFACE = Loss("arcface", 64.0, 1.0, 0.5, 0.0)
COSFACE = Loss("cosface", 64.0, 1.0, 0.0, 0.4)
COMBINED = Loss("combined", 16.0, 0.9, 0.4, 0.15)

losses = st.one_of(
    st.builds(Loss, st.just("arcface"), st.floats(1, 64), st.just(1.0), st.floats(0, 1), st.just(0.0)),
    st.builds(Loss, st.just("cosface"), st.floats(1, 64), st.just(1.0), st.just(0.0), st.floats(0, 1)),
    st.builds(
        Loss, st.just("combined"), st.floats(1, 64), st.floats(0.5, 2), st.floats(0, 1), st.floats(0, 1)
    ),
)


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings [B, E], class weights [C, E], labels [B]."""
    batch, classes, width = draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(2, 5))
    stream = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = np.array(draw(st.lists(st.integers(0, classes - 1), min_size=batch, max_size=batch)))
    return stream.standard_normal((batch, width)), stream.standard_normal((classes, width)), labels


def cosines(embeddings: np.ndarray, weight: np.ndarray) -> np.ndarray:
    normed = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (embeddings, weight)]
    return normed[0] @ normed[1].T


@given(problems(), st.floats(1, 64))
def test_no_margin_is_the_plain_softmax_of_scaled_cosines(problem: tuple, scale: float) -> None:
    embeddings, weight, labels = problem
    logits = scale * cosines(embeddings, weight)
    expected = np.mean(
        np.log(np.exp(logits - scale).sum(axis=1)) + scale - logits[np.arange(len(labels)), labels]
    )

    for kind in ("softmax", "arcface", "cosface", "combined"):
        actual = margin_softmax(embeddings, weight, labels, Loss(kind, scale, 1.0, 0.0, 0.0)).loss
        assert expected == pytest.approx(actual, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (ARCFACE, lambda cosine: np.cos(np.arccos(cosine) + 0.5)),
        (COSFACE, lambda cosine: cosine - 0.4),
        (COMBINED, lambda cosine: np.cos(0.9 * np.arccos(cosine) + 0.4) - 0.15),
    ],
    ids=["arcface", "cosface", "combined"],
)
def test_the_margin_changes_only_the_true_class(loss: Loss, target: object) -> None:
    embeddings, weight, labels = np.array([[3.0, 4.0]]), np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([1])
    true, other = loss.scale * target(0.8), loss.scale * 0.6

    expected = np.log(np.exp(true) + np.exp(other)) - true

    assert expected == pytest.approx(margin_softmax(embeddings, weight, labels, loss).loss, rel=1e-12)


def central_difference(function: object, at: np.ndarray) -> np.ndarray:
    step, gradient = 1e-6, np.empty_like(at)
    for index in np.ndindex(*at.shape):
        ahead, behind = at.copy(), at.copy()
        ahead[index] += step
        behind[index] -= step
        gradient[index] = (function(ahead) - function(behind)) / (2 * step)
    return gradient


@given(problems(), losses)
def test_gradients_match_finite_differences(problem: tuple, loss: Loss) -> None:
    embeddings, weight, labels = problem
    true = cosines(embeddings, weight)[np.arange(len(labels)), labels]
    if has_angular_margin(loss) and np.any(np.abs(true) > 0.999):
        return  # next to the clamp a difference quotient over 1e-6 is no derivative
    shortest = min(np.linalg.norm(embeddings, axis=1).min(), np.linalg.norm(weight, axis=1).min())
    if shortest < 0.05:
        return  # likewise next to a row without a direction

    made = margin_softmax(embeddings, weight, labels, loss)

    by_embeddings = central_difference(lambda x: margin_softmax(x, weight, labels, loss).loss, embeddings)
    by_weight = central_difference(lambda x: margin_softmax(embeddings, x, labels, loss).loss, weight)
    scale = 1 + max(np.abs(made.embedding_gradient).max(), np.abs(made.weight_gradient).max())
    np.testing.assert_allclose(made.embedding_gradient, by_embeddings, atol=2e-5 * scale)
    np.testing.assert_allclose(made.weight_gradient, by_weight, atol=2e-5 * scale)


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["same direction", "opposite direction"])
@pytest.mark.parametrize("loss", [ARCFACE, COMBINED], ids=["arcface", "combined"])
def test_a_true_cosine_at_the_end_is_clamped_and_gives_finite_gradients(loss: Loss, sign: float) -> None:
    embeddings, weight = np.array([[0.6, 0.8]]), np.array([[sign * 0.6, sign * 0.8], [1.0, 0.0]])
    true = loss.scale * (np.cos(loss.m1 * np.arccos(sign * COSINE_LIMIT) + loss.m2) - loss.m3)
    expected = np.log(np.exp(true) + np.exp(loss.scale * 0.6)) - true

    made = margin_softmax(embeddings, weight, np.array([0]), loss)

    assert expected == pytest.approx(made.loss, rel=1e-9, abs=1e-12)
    assert np.isfinite(made.embedding_gradient).all()
    assert np.isfinite(made.weight_gradient).all()


@given(st.integers(1, 500), st.integers(1, 20))
def test_ranges_of_classes_are_consecutive_and_complete(classes: int, world: int) -> None:
    if classes < world:
        with pytest.raises(ValueError, match=f"{classes} classes over {world} ranks leave some none"):
            class_range(classes, world, 0)
        return

    ranges = [class_range(classes, world, rank) for rank in range(world)]

    assert list(range(classes)) == [one for first, last in ranges for one in range(first, last)]
    sizes = [last - first for first, last in ranges]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1
