"""Inputs of a small alignment and outputs that a test can bend."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from dlperf.align.arrays import Inputs, Outputs
from dlperf.align.certificate import Pair, Tolerance
from dlperf.align.compare import compare, cosines, margin_loss
from dlperf.align.participants import Settings, probe_case
from dlperf.plan.case import Case, Loss, LossKind, Schedule, Workload
from frameworks.common.align_inputs import align_inputs
from frameworks.common.case import case_from_dict

Arrays = dict[str, np.ndarray]

MARGINS: dict[str, dict[str, float]] = {"arcface": {"m2": 0.5}, "cosface": {"m3": 0.4}, "softmax": {}}
STEPS = 5


def workload_of(kind: LossKind = "arcface") -> Workload:
    return Workload(
        experiment="y1_emore",
        network="mobilefacenet",
        head="GDC",
        embedding_size=128,
        dataset="face_emore",
        loss=Loss(kind=kind, **MARGINS[kind]),
        schedule=Schedule(learning_rate=0.1, steps=(100_000,), scales=(0.1,)),
    )


@pytest.fixture
def workload() -> Workload:
    return workload_of()


def case_of(kind: LossKind = "arcface") -> Case:
    settings = Settings(steps=STEPS, num_classes=50)
    return probe_case(workload_of(kind), framework="pytorch", version="2.13.0", settings=settings)


@pytest.fixture
def case() -> Case:
    return case_of()


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inputs]:
    path = tmp_path_factory.mktemp("inputs") / "inputs.npz"
    np.savez(path, **align_inputs(case_from_dict(case_of().model_dump(mode="json")), STEPS))
    with Inputs(path) as opened:
        yield opened


@pytest.fixture(scope="session")
def sound_arrays(inputs: Inputs) -> Callable[[LossKind], Arrays]:
    """What a sound engine could write: the defined first loss, and every array moved a little by each step.

    The moves have no meaning; what is under test is how two such files are compared.
    """

    @cache
    def make(kind: LossKind) -> Arrays:
        stream = np.random.default_rng(0)
        case = case_of(kind)
        embeddings = stream.standard_normal((case.batch_size_per_device, 128)).astype(np.float32)
        cosine = cosines(embeddings, inputs.initial("classifier.weight"))
        first = margin_loss(cosine, inputs.labels, case.workload.loss)
        made: Arrays = {"embeddings": embeddings, "losses": first + np.arange(STEPS, dtype=np.float64)}
        for name, kind_of_array in inputs.kinds.items():
            before = inputs.initial(name)
            move = stream.standard_normal(before.shape).astype(np.float32) * 0.01 * np.abs(before).max()
            statistic = kind_of_array == "statistic"
            if name.endswith(".running_var"):  # moves towards the variance of a batch, which is positive
                move = 0.1 * (stream.uniform(0.01, 0.1, before.shape).astype(np.float32) - before)
            key = f"buffer/{name}" if statistic else f"parameter/{name}"
            made[f"first_step/{key}"], made[key] = before + move, before + 3 * move
            if not statistic:
                made[f"gradient_norm/{name}"] = np.array(1 + stream.random())
        return made

    return make


@pytest.fixture
def arrays(sound_arrays: Callable[[LossKind], Arrays]) -> Callable[..., Arrays]:
    """A copy that a test may bend."""

    def copied(kind: LossKind = "arcface") -> Arrays:
        return {name: array.copy() for name, array in sound_arrays(kind).items()}

    return copied


@pytest.fixture(scope="session")
def sound(
    inputs: Inputs, sound_arrays: Callable[[LossKind], Arrays], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outputs]:
    """The file of a sound engine."""
    path = tmp_path_factory.mktemp("sound") / "sound.npz"
    np.savez(path, **sound_arrays("arcface"))
    read = Outputs([path], inputs, steps=STEPS)
    yield read
    read.close()


@pytest.fixture
def outputs(inputs: Inputs, tmp_path: Path) -> Callable[[Arrays], Outputs]:
    """Write the arrays as a program does, and read them as `dlperf align` does."""

    def write(made: Arrays) -> Outputs:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npz"
        np.savez(path, **made)
        return Outputs([path], inputs, steps=STEPS)

    return write


@pytest.fixture
def bent(
    inputs: Inputs, arrays: Callable[..., Arrays], outputs: Callable[[Arrays], Outputs], sound: Outputs
) -> Callable[..., Pair]:
    """`mxnet` with its arrays bent by a function, compared with `pytorch`, which has them as they were."""

    def make(bend: Callable[[Arrays], None], *, frozen: bool = False) -> Pair:
        changed, case = arrays(), case_of()
        bend(changed)
        if frozen:
            workload = case.workload.model_copy(update={"batch_norm": "frozen"})
            case = case.model_copy(update={"workload": workload})
        return compare(
            ("mxnet", "pytorch"),
            outputs(changed),
            sound,
            inputs,
            case=case,
            tolerance=Tolerance(),
        )

    return make
