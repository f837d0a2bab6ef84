"""The margin softmax over classes that are split over the ranks; `frameworks/common/margin.py` defines it.

The gradients are written out, so that of the largest arrays, [R B, classes], there is one: it holds the
cosines, then the exponentials, then the gradient. No copy of the normalised weights is made either: a cosine
is <unit embedding, weight> / |weight|.
"""

from typing import Any, Callable, NamedTuple, Tuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize

from frameworks.common.case import Loss
from frameworks.common.initial import CLASSIFIER
from frameworks.common.margin import COSINE_LIMIT, has_angular_margin
from frameworks.common.phases import Phases
from frameworks.pytorch.parallel import Ranks
from frameworks.pytorch.sampling import DeviceSampler, HostSampler, Sample, SampledRows

_SHORTEST = 1e-12  # as in torch.nn.functional.normalize


class ShardedMarginSoftmax(nn.Module):
    """Loss of a rank's embeddings [B, E] and labels int64 [B]: a scalar, the mean over the global batch.

    `weight` [classes of the rank, E] holds the classes from `first` on. Embeddings get the gradient of that
    mean, summed over the ranks.
    """

    def __init__(
        self, loss: Loss, held: range, embedding_size: int, ranks: Ranks, *, compiled: bool = False
    ) -> None:
        super().__init__()
        self.table_name = CLASSIFIER.rpartition(".")[0]
        self._loss, self._first, self._ranks = loss, held.start, ranks
        self._kernels = _compiled() if compiled else _EAGER
        self.weight = nn.Parameter(torch.zeros(len(held), embedding_size))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute in the dtype of the weights, float32."""
        own = self._ranks.gathered(labels) - self._first
        inside = (own >= 0) & (own < len(self.weight))
        return self._loss_of(embeddings, self.weight, own.clamp(0, len(self.weight) - 1), inside)

    def compile_now(self, images: int) -> None:
        """Compile, as torch does at the first call, for a global batch of so many images; nothing is sent.

        Gradients are left behind.
        """
        rows = self.trained_rows()
        unit = torch.zeros(images, rows.shape[1], device=rows.device, requires_grad=True)
        column = torch.zeros(images, 1, dtype=torch.int64, device=rows.device)
        true_class = _TrueClass(column, column == 0)
        alone = Ranks(1, Phases(lambda: None))
        _SplitSoftmax.apply(unit, rows, true_class, self._loss, alone, self._kernels).backward()

    def trained_rows(self) -> nn.Parameter:
        """The weights that a step trains."""
        return self.weight

    def _loss_of(self, embeddings: Tensor, weight: Tensor, column: Tensor, inside: Tensor) -> Tensor:
        everyones = _Gathered.apply(normalize(embeddings), self._ranks)
        true_class = _TrueClass(column.unsqueeze(1), inside.unsqueeze(1))
        return _SplitSoftmax.apply(everyones, weight, true_class, self._loss, self._ranks, self._kernels)


class SampledMarginSoftmax(ShardedMarginSoftmax):
    """The same over the rows of a sample: of `weight` only they, copied into `rows`, have a gradient."""

    def __init__(
        self,
        loss: Loss,
        held: range,
        embedding_size: int,
        ranks: Ranks,
        sampler: "HostSampler | DeviceSampler",
        *,
        compiled: bool = False,
    ) -> None:
        super().__init__(loss, held, embedding_size, ranks, compiled=compiled)
        self.weight.requires_grad_(False)  # noqa: FBT003
        self.rows = nn.Parameter(torch.zeros(sampler.size, embedding_size))
        self._sampler = sampler

    def connect(self, sampled_rows: SampledRows) -> None:
        """Take what moves rows between `weight` and `rows`, with their momentum."""
        self.sampled_rows = sampled_rows

    def trained_rows(self) -> nn.Parameter:
        """Those that are sampled."""
        return self.rows

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Sample by the global batch's labels, then as ever; `last_sample` is kept."""
        everyones = self._ranks.gathered(labels)
        self.last_sample: Sample = self._sampler(everyones)
        index = self.last_sample.index
        self.sampled_rows.take(index)
        column = torch.searchsorted(index, everyones - self._first).clamp(max=len(index) - 1)
        inside = index[column] == everyones - self._first
        return self._loss_of(embeddings, self.rows, column, inside)


class _TrueClass(NamedTuple):
    """Of each sample the column of its class, int64 [R B, 1], and whether the rank has it, bool [R B, 1]."""

    column: Tensor
    inside: Tensor


class _Gathered(torch.autograd.Function):
    """[B, E] of every rank -> [R B, E]; back comes the sum of what the ranks have for a row."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.gathered(own)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor, None]:
        return ctx.ranks.own_sum(gradient), None


class _SplitSoftmax(torch.autograd.Function):
    """Unit embeddings [R B, E] and a rank's weights [C, E] -> the loss, the same on every rank."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        embeddings: Tensor,
        weight: Tensor,
        true_class: _TrueClass,
        loss: Loss,
        ranks: Ranks,
        kernels: "_Kernels",
    ) -> Tensor:
        shrink = weight.norm(dim=1).clamp_min(_SHORTEST).reciprocal()
        logits, true_logit, slope, maximum = kernels.logits(embeddings @ weight.t(), shrink, true_class, loss)
        ranks.maximum_(maximum)
        exponentials, row_sums = kernels.exponentials(logits, maximum)
        sums = torch.stack([row_sums, torch.where(true_class.inside, true_logit - maximum, 0.0)])
        ranks.sum_(sums)
        ctx.save_for_backward(embeddings, weight, shrink, *true_class, slope, exponentials, sums[0])
        ctx.scale, ctx.kernels = loss.scale, kernels
        return (sums[0].log() - sums[1]).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Any, ...]:
        embeddings, weight, shrink, column, inside, slope, exponentials, total = ctx.saved_tensors
        factor = gradient * (ctx.scale / len(embeddings))
        of_product = ctx.kernels.product_gradient(
            exponentials, total, _TrueClass(column, inside), slope, factor=factor, shrink=shrink
        )
        of_weight = ctx.kernels.weight_gradient(of_product.t() @ embeddings, weight, shrink)
        return of_product @ weight, of_weight, None, None, None, None


# The elementwise parts. They write into their first argument.


def _logits(
    product: Tensor, shrink: Tensor, true_class: _TrueClass, loss: Loss
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits [N, C]; of each sample the true class's, its slope in the cosine and the largest, [N, 1]."""
    column, inside = true_class
    cosines = product.mul_(shrink)
    cosine = cosines.gather(1, column)
    target, slope = _with_margin(cosine, loss)
    logits = cosines.scatter_(1, column, torch.where(inside, target, cosine)).mul_(loss.scale)
    return logits, target * loss.scale, slope, logits.amax(1, keepdim=True)


def _with_margin(cosine: Tensor, loss: Loss) -> Tuple[Tensor, Tensor]:
    """cos(m1 theta + m2) - m3 and its slope in the cosine, which is 0 where the clamp holds."""
    if not has_angular_margin(loss):
        return cosine - loss.m3, torch.ones_like(cosine)
    theta = torch.arccos(cosine.clamp(-COSINE_LIMIT, COSINE_LIMIT))
    angle = theta * loss.m1 + loss.m2
    slope = loss.m1 * torch.sin(angle) / torch.sin(theta)
    return torch.cos(angle) - loss.m3, torch.where(cosine.abs() <= COSINE_LIMIT, slope, 0.0)


def _exponentials(logits: Tensor, maximum: Tensor) -> Tuple[Tensor, Tensor]:
    exponentials = logits.sub_(maximum).exp_()
    return exponentials, exponentials.sum(1, keepdim=True)


def _product_gradient(
    exponentials: Tensor,
    total: Tensor,
    true_class: _TrueClass,
    slope: Tensor,
    *,
    factor: Tensor,
    shrink: Tensor,
) -> Tensor:
    """(softmax - one-hot) x d logit / d product x factor, [N, C]."""
    column, inside = true_class
    probability = exponentials.gather(1, column) / total
    gradient = exponentials.mul_(factor / total)
    true = torch.where(inside, (probability - 1) * slope, probability) * factor
    return gradient.scatter_(1, column, true).mul_(shrink)


def _weight_gradient(of_unit: Tensor, weight: Tensor, shrink: Tensor) -> Tensor:
    """Through the division by the length, [C, E]: only what is tangential passes."""
    along = (of_unit * weight).sum(1, keepdim=True) * shrink.square().unsqueeze(1)
    return of_unit.addcmul_(weight, along, value=-1)


class _Kernels(NamedTuple):
    logits: Callable[..., Tuple[Tensor, Tensor, Tensor, Tensor]]
    exponentials: Callable[..., Tuple[Tensor, Tensor]]
    product_gradient: Callable[..., Tensor]
    weight_gradient: Callable[..., Tensor]


_EAGER = _Kernels(_logits, _exponentials, _product_gradient, _weight_gradient)


def _compiled() -> _Kernels:
    """The same, each fused into few passes over memory."""
    return _Kernels(*(torch.compile(kernel, dynamic=False) for kernel in _EAGER))
