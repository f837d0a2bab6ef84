"""The margin softmax over classes that are split over the ranks; `frameworks/common/margin.py` defines it.

The gradients are written out, so that only one array of the largest size, [R B, classes], is kept: it holds
the cosines, then the exponentials, then the gradient. The normalised weights are not copied either: a cosine
is <unit embedding, weight> / |weight|.

Partial FC samples as `frameworks/common/sampling.py` defines it: on CPU with its numpy sampler, so that
engines can be compared; on CUDA with a sampler on the device that follows the same rule, so that the host
never waits.
"""

from typing import Any, Callable, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize

from frameworks.common.case import Case, Loss, Rank
from frameworks.common.initial import CLASSIFIER
from frameworks.common.margin import COSINE_LIMIT, has_angular_margin, held_classes
from frameworks.common.phases import Phases
from frameworks.common.sampling import HostSampler, sample_size, sampling_stream
from frameworks.pytorch.head import MarginSoftmax
from frameworks.pytorch.optimizer import CaseSGD
from frameworks.pytorch.parallel import Ranks
from frameworks.pytorch.settings import device, uses_compile

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
        """Compile for a global batch of `images`, as torch does at the first call, without communication.

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
    """The same over sampled rows, which are copied from `weight` into `rows` and trained there."""

    def __init__(
        self,
        loss: Loss,
        held: range,
        embedding_size: int,
        ranks: Ranks,
        *,
        sampler: "Callable[[Tensor], Sample]",
        size: int,
        compiled: bool = False,
    ) -> None:
        super().__init__(loss, held, embedding_size, ranks, compiled=compiled)
        self.weight.requires_grad_(False)  # noqa: FBT003
        self.rows = nn.Parameter(torch.zeros(size, embedding_size))
        self._sampler = sampler

    def connect(self, optimizer: CaseSGD) -> None:
        """Let `rows` take their momentum from a table as large as `weight`."""
        self.sampled_rows = SampledRows(self.weight, self.rows, optimizer)

    def trained_rows(self) -> nn.Parameter:
        """The sampled ones."""
        return self.rows

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Sample by the labels of the global batch; `last_sample` is kept."""
        everyones = self._ranks.gathered(labels)
        self.last_sample = self._sampler(everyones)
        index = self.last_sample.index
        self.sampled_rows.take(index)
        column = torch.searchsorted(index, everyones - self._first).clamp(max=len(index) - 1)
        inside = index[column] == everyones - self._first
        return self._loss_of(embeddings, self.rows, column, inside)


class Sample(NamedTuple):
    """Indices into a rank's rows, int64 [size], ascending.

    `positives`, if still to be checked: how many of the rank's classes the batch names, an int64 scalar. If
    it exceeds `size`, some of them are missing from the sample.
    """

    index: Tensor
    positives: Optional[Tensor] = None


class DeviceSampler:
    """Samples on the device: every class gets a random score, positives the highest; the best are taken."""

    def __init__(self, case: Case, rank: Rank, device: torch.device) -> None:
        self._held = held_classes(case, rank)
        self.size = sample_size(case, rank.rank)
        seed = int(sampling_stream(case, rank.rank).integers(2**63))
        self._generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, labels: Tensor) -> Sample:
        """Sample for the labels of the global batch, int64 [R B], on the device."""
        count = len(self._held)
        own = labels - self._held.start
        # Labels of other ranks mark a row past the last one, which is then dropped.
        marked = torch.where((own >= 0) & (own < count), own, count)
        scores = torch.rand(count + 1, device=labels.device, generator=self._generator)
        scores = scores.index_fill_(0, marked, 2.0)[:count]
        index = scores.topk(self.size, sorted=False).indices.sort().values
        return Sample(index, (scores == 2.0).sum())  # noqa: PLR2004


class SampledRows:
    """The rows of a step, copied from the table and back with their momentum; no other row is touched."""

    def __init__(self, table: nn.Parameter, rows: nn.Parameter, optimizer: CaseSGD) -> None:
        """Take the whole table [classes, E], and what is trained in a step, [size, E]."""
        self._pairs = [(table.data, rows.data)]
        momentum = optimizer.momentum(rows)
        if momentum is not None:
            self.momentum = torch.zeros_like(table)
            optimizer.keep_in_rate(self.momentum)
            self._pairs.append((self.momentum, momentum))
        self._index: Optional[Tensor] = None

    @torch.no_grad()
    def take(self, index: Tensor) -> None:
        """Copy the rows `index` out."""
        self._index = index
        for table, rows in self._pairs:
            torch.index_select(table, 0, index, out=rows)

    @torch.no_grad()
    def put_back(self) -> None:
        """Copy them back."""
        for table, rows in self._pairs:
            table.index_copy_(0, self._index, rows)


def make_head(case: Case, rank: Rank, ranks: Ranks) -> nn.Module:
    """The case's classifier."""
    if case.parallelism == "data":
        return MarginSoftmax(case.loss, case.num_classes, case.embedding_size)
    held, compiled = held_classes(case, rank), uses_compile(case)
    if case.parallelism == "partial_fc":
        host = HostSampler(case, rank)
        if host.size < len(held):
            sampler = _host_samples(host) if case.device == "cpu" else DeviceSampler(case, rank, device(case))
            sample = {"sampler": sampler, "size": host.size}
            return SampledMarginSoftmax(
                case.loss, held, case.embedding_size, ranks, **sample, compiled=compiled
            )
    return ShardedMarginSoftmax(case.loss, held, case.embedding_size, ranks, compiled=compiled)


def _host_samples(sampler: HostSampler) -> Callable[[Tensor], Sample]:
    return lambda labels: Sample(torch.from_numpy(sampler.sample(labels.cpu().numpy())))


class _TrueClass(NamedTuple):
    """Per image the column of its class, int64 [R B, 1], and whether the rank has it, bool [R B, 1]."""

    column: Tensor
    inside: Tensor


class _Gathered(torch.autograd.Function):
    """[B, E] of every rank -> [R B, E]; the gradient of a row is the sum over the ranks."""

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
    """Logits [N, C]; per image, [N, 1]: the true class's logit, its slope in the cosine, the largest."""
    column, inside = true_class
    cosines = product.mul_(shrink)
    cosine = cosines.gather(1, column)
    target, slope = _with_margin(cosine, loss)
    logits = cosines.scatter_(1, column, torch.where(inside, target, cosine)).mul_(loss.scale)
    return logits, target * loss.scale, slope, logits.amax(1, keepdim=True)


def _with_margin(cosine: Tensor, loss: Loss) -> Tuple[Tensor, Tensor]:
    """cos(m1 theta + m2) - m3 and its slope in the cosine, which is 0 where the cosine is clamped."""
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
    """The gradient through the division by the length, [C, E]: only the tangential part passes."""
    along = (of_unit * weight).sum(1, keepdim=True) * shrink.square().unsqueeze(1)
    return of_unit.addcmul_(weight, along, value=-1)


class _Kernels(NamedTuple):
    logits: Callable[..., Tuple[Tensor, Tensor, Tensor, Tensor]]
    exponentials: Callable[..., Tuple[Tensor, Tensor]]
    product_gradient: Callable[..., Tensor]
    weight_gradient: Callable[..., Tensor]


_EAGER = _Kernels(_logits, _exponentials, _product_gradient, _weight_gradient)


def _compiled() -> _Kernels:
    """The same kernels, each fused into few passes over memory."""
    return _Kernels(*(torch.compile(kernel, dynamic=False) for kernel in _EAGER))
