"""Which build runs on which GPU, and what to say where one does not."""

from collections.abc import Iterable, Iterator
from contextlib import suppress

from dlperf.adapters.base import Adapter, CudaBuild, EnvironmentSpec
from dlperf.plan.machine import Gpu, version_key

_NEWEST_DRIVER = "999999"


def has_code_for(build: CudaBuild, capability: str) -> bool:
    """Whether a GPU of this compute capability can run the build.

    Machine code for X.y runs on X.y and on every later capability of the same major number, but on no other
    major number; the driver compiles PTX for its own and every later capability. (CUDA C++ Programming Guide,
    "Binary Compatibility" and "PTX Compatibility".)
    """
    wanted = version_key(capability)
    has = (version_key(own) for own in build.capabilities)
    if any(own[0] == wanted[0] and own <= wanted for own in has):
        return True
    return build.ptx is not None and version_key(build.ptx) <= wanted


def why_not(build: CudaBuild, gpu: Gpu) -> str | None:
    """Why the build cannot run on the GPU, to stand after its name; None if it can, or if that is not known.

    Its toolkit's first driver is enough: minor versions of CUDA are compatible.
    """
    if gpu.capability is not None and not has_code_for(build, gpu.capability):
        first, last = build.capabilities[0], build.capabilities[-1]
        return (
            f"has no code for compute capability {gpu.capability} ({gpu.name}): "
            f"its build for CUDA {build.toolkit} has {first if first == last else f'{first} to {last}'}"
        )
    if gpu.driver and build.driver and version_key(gpu.driver) < version_key(build.driver):
        return (
            f"needs driver {build.driver} or newer, as its build is for CUDA {build.toolkit}; "
            f"{gpu.name} has {gpu.driver}"
        )
    return None


def refusal(spec: EnvironmentSpec, gpus: Iterable[Gpu], *, adapter: Adapter | None = None) -> str | None:
    """Why an environment cannot run on one of the GPUs, and what to do; None if it can, or not known.

    With `adapter` it names the adapter's other builds that can.
    """
    for gpu in dict.fromkeys(gpus):
        reason = None if spec.cuda is None else why_not(spec.cuda, gpu)
        if reason is not None:
            remedies = [] if adapter is None else list(_remedies(spec, gpu, adapter))
            remedy = " or ".join(remedies) or "use another framework or GPU"
            return f"{spec.framework} {spec.version} {reason}; {remedy}"
    return None


def _remedies(spec: EnvironmentSpec, gpu: Gpu, adapter: Adapter) -> Iterator[str]:
    """What can run on the GPU: the same version with a newer driver, other versions with this one."""
    update = gpu.model_copy(update={"driver": _NEWEST_DRIVER})
    for version in adapter.versions:
        for seen in (gpu, update):
            with suppress(ValueError):
                build = adapter.environment(version, "cuda", parallel=spec.parallel, gpu=seen).cuda
                if build is not None and why_not(build, seen) is None:
                    if seen is update and build == spec.cuda:
                        yield "update the driver"
                    elif seen is update:
                        yield f"use {spec.framework} {version} with driver {build.driver} or newer"
                    elif version == spec.version:
                        yield f"plan for this GPU alone, which takes the build for CUDA {build.toolkit}"
                    else:
                        yield f"use {spec.framework} {version}"
                    break
