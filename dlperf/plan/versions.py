"""A version from elsewhere: a wheel file of the user's own, a package index, or a page or folder of wheels.

The version that results and tables show says where it is from, as `1.9.1+wheel.0a1b2c3d`,
`2.14.0.dev20261101+index.0a1b2c3d` or `0.9.1+links.0a1b2c3d`: two builds of one version are compared as two
versions.
"""

import hashlib
import os
import re
import zipfile
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import Field

from dlperf.adapters.base import Adapter, EnvironmentSpec, WheelFile
from dlperf.model import Model
from dlperf.plan.case import DeviceKind
from dlperf.plan.machine import Gpu

_SHOWN_DIGITS = 8
_MINORS = range(8, 15)  # of the CPythons that the training programs run on
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Origin(Model):
    """Where a version comes from: `wheel` (with its hash and distribution), `index` or `find_links`."""

    version: str
    """The package's version."""
    wheel: str | None = None
    """Absolute path of the wheel; null: it comes from elsewhere."""
    sha256: str | None = None
    """SHA-256 of the wheel in hexadecimal digits; null without one."""
    distribution: str | None = None
    """Normalised name of the package that the wheel holds; null without one."""
    pythons: tuple[str, ...] = ()
    """CPythons that the wheel is for, such as `3.10`; empty without one."""
    index: str | None = None
    """URL of the package index; null: it comes from elsewhere."""
    # Not written where there is none, so that older plans stay equal.
    find_links: Annotated[str | None, Field(exclude_if=lambda place: place is None)] = None
    """URL of a page with links to wheels, or absolute path of a folder with wheels; null: it comes from
    elsewhere."""

    @property
    def place(self) -> str | None:
        """Of the wheel, of the index, or of the links."""
        return self.wheel or self.index or self.find_links

    @property
    def label(self) -> str:
        """The version of a case: the package's, and as a local version what tells the origin apart."""
        kind = "wheel" if self.wheel else "index" if self.index else "links"
        digest = self.sha256 or hashlib.sha256(str(self.place).encode()).hexdigest()
        return f"{self.version}{'.' if '+' in self.version else '+'}{kind}.{digest[:_SHOWN_DIGITS]}"


def distribution_of(requirement: str) -> str:
    """The normalised name of the package that a requirement names: `mxnet-cu112` of `mxnet_cu112==1.9.1`."""
    from packaging.utils import canonicalize_name  # noqa: PLC0415

    return canonicalize_name(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0])


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits; OSError where it cannot be read."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checked_index(url: str) -> str:
    """The URL of a package index as it may stand in a file.

    ValueError where it is none, is not encrypted on its way, or holds what could be a secret (not repeated).
    """
    wanted = "a package index; write a URL such as 'https://host/simple'"
    return _checked_url(url, schemes={"https", "http"}, wanted=wanted)


def checked_find_links(place: str) -> str:
    """The URL of a page with links to wheels, checked as that of an index, or a folder's path as it is."""
    if "://" not in place:
        return place
    wanted = "a page of links; write a URL such as 'https://host/wheels.html'"
    return _checked_url(place, schemes={"https", "http"}, wanted=wanted)


def find_links_folder(place: str) -> Path | None:
    """The folder on this machine that a place of wheels is; None for a page elsewhere."""
    if "://" not in place:
        return Path(place)
    parts = urlsplit(place)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def read_find_links(written: str, *, folder: Path) -> str:
    """The place of wheels that a sweep in `folder` names, as a URL or absolute path.

    ValueError where it is a folder and not there.
    """
    path = find_links_folder(written)
    if path is None:
        return written
    path = Path(os.path.normpath(folder.absolute() / path.expanduser()))
    if not path.exists():
        raise ValueError(
            "there is no such folder; write a folder, or a URL such as 'https://host/wheels.html'"
        )
    return written if "://" in written else str(path)


def checked_git_url(url: str) -> str:
    """The URL of a repository as it may stand in a sweep; ValueError otherwise, which repeats no secret."""
    wanted = "a repository; write a URL with https or ssh, such as 'https://host/name.git'"
    return _checked_url(url, schemes={"https", "ssh"}, wanted=wanted)


def _checked_url(url: str, *, schemes: Collection[str], wanted: str) -> str:
    """A URL of one of these schemes, or of a file; ValueError otherwise."""
    try:
        parts = urlsplit(url)
        user_of_ssh = parts.scheme == "ssh" and not parts.password  # it is no secret
        secret = ("@" in parts.netloc and not user_of_ssh) or parts.query or parts.fragment
        host = parts.hostname
    except ValueError:
        raise ValueError(f"is not {wanted}") from None
    if secret:
        program = (
            "git through ~/.netrc or an ssh key"
            if "ssh" in schemes
            else "uv through ~/.netrc or a keyring (UV_KEYRING_PROVIDER=subprocess)"
        )
        raise ValueError(
            "contains a user, password or token; never put secrets into a sweep. Remove it and give "
            f"it to {program}"
        )
    if parts.scheme == "file" and not parts.netloc and parts.path:
        return url
    if parts.scheme not in schemes or not host or host.startswith("-"):
        raise ValueError(f"is not {wanted}")
    if parts.scheme == "http" and host not in _LOOPBACK:
        raise ValueError(
            "is not encrypted: anyone on the network could change the code that runs here; use https://"
        )
    return url


def read_wheel(written: str, *, folder: Path, adapter: Adapter) -> Origin:
    """The wheel that a sweep in `folder` names, checked against what the framework's adapter installs.

    ValueError where it is not there, is no wheel, is for another system or Python, or of another framework.
    """
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename  # noqa: PLC0415

    # normpath, not resolve: a link's own name is that of the wheel.
    path = Path(os.path.normpath(folder.absolute() / Path(written).expanduser()))
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        name, version, _, tags = parse_wheel_filename(path.name)
    except InvalidWheelFilename:
        raise ValueError(
            f"{path.name} is not a wheel's file name, such as mxnet-1.9.1-py3-none-manylinux2014_x86_64.whl"
        ) from None
    if not _is_wheel(path):
        raise ValueError(f"{path} is not a wheel: not a zip archive with a .dist-info folder")
    known = _distributions(adapter)
    if name not in known:
        raise ValueError(f"{path.name} contains {name}; {adapter.name} installs {' or '.join(known)}")
    pythons = _pythons(map(str, tags))
    if not pythons:
        raise ValueError(
            f"{path.name} fits no CPython from 3.{_MINORS.start} to 3.{_MINORS.stop - 1} on this machine "
            f"({', '.join(sorted(map(str, tags)))})"
        )
    return Origin(
        version=str(version), wheel=str(path), sha256=sha256_of(path), distribution=name, pythons=pythons
    )


def _is_wheel(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(re.fullmatch(r"[^/]+\.dist-info/WHEEL", name) for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _pythons(tags: Iterable[str]) -> tuple[str, ...]:
    """The CPythons that can install a wheel with one of these tags on this machine."""
    from packaging.tags import compatible_tags, cpython_tags, platform_tags  # noqa: PLC0415

    wanted, platforms = set(tags), list(platform_tags())
    return tuple(
        f"3.{minor}"
        for minor in _MINORS
        if not wanted.isdisjoint(map(str, cpython_tags((3, minor), platforms=platforms)))
        or not wanted.isdisjoint(map(str, compatible_tags((3, minor), f"cp3{minor}", platforms=platforms)))
    )


def _distributions(adapter: Adapter) -> tuple[str, ...]:
    """The packages that hold the framework, as the adapter's environments name them."""
    found = {}
    for device in ("cpu", "cuda"):
        for version in adapter.versions:
            try:
                spec = adapter.environment(version, device)
            except ValueError:
                continue
            found[distribution_of(_framework_requirement(spec))] = True
    return tuple(found)


def _framework_requirement(spec: EnvironmentSpec) -> str:
    """The requirement that pins the framework itself: by its version, else the first."""
    pinned = [text for text in spec.requirements if text.partition("==")[2] == spec.version]
    return (pinned or list(spec.requirements) or [spec.framework])[0]


def environment_from(
    origin: Origin, *, adapter: Adapter, device: DeviceKind, parallel: bool, gpu: Gpu | None = None
) -> EnvironmentSpec:
    """What the adapter asks for around the version nearest to the origin's, with the framework from there.

    ValueError where the adapter installs nothing on this device, or another package than the wheel's.
    """
    base = _nearest(origin.version, adapter=adapter, device=device, parallel=parallel, gpu=gpu)
    replaced = _framework_requirement(base)
    distribution = distribution_of(replaced)
    if origin.distribution not in (None, distribution):
        raise ValueError(
            f"the wheel contains {origin.distribution}, "
            f"but on {device} {adapter.name} installs {distribution}"
        )
    others = tuple(text for text in base.requirements if text != replaced)
    ours = [python for python in base.pythons if python in origin.pythons]
    return replace(
        base,
        version=origin.version,
        # The adapter's order of Pythons, then those that the wheel alone knows of.
        pythons=tuple(dict.fromkeys((*ours, *origin.pythons))) or base.pythons,
        requirements=(f"{distribution}=={origin.version}", *others),
        build_check=None,
        torch_backend=None,
        torch_on_pypi=False,
        cuda=None,
        wheel=WheelFile(path=origin.wheel, sha256=str(origin.sha256)) if origin.wheel else None,
        index=origin.index,
        find_links=origin.find_links,
        notes=f"from {origin.place}",
    )


def _nearest(
    version: str, *, adapter: Adapter, device: DeviceKind, parallel: bool, gpu: Gpu | None
) -> EnvironmentSpec:
    """The environment of the newest known version that is not newer than `version`, else of the oldest."""
    known, refusals = {}, []
    for name in adapter.versions:
        try:
            known[name] = adapter.environment(name, device, parallel=parallel, gpu=gpu)
        except ValueError as error:
            refusals.append(str(error))
    if not known:
        raise ValueError(refusals[0] if refusals else f"{adapter.name} has no environment on {device}")
    ascending = sorted(known, key=version_order)
    older = [name for name in ascending if version_order(name) <= version_order(version)]
    return known[older[-1] if older else ascending[0]]


def version_order(version: str) -> tuple[int, object]:
    """A key that sorts versions as packages do (1.10 behind 1.9, 2.0rc1 before 2.0); what is none first."""
    from packaging.version import InvalidVersion, Version  # noqa: PLC0415

    try:
        return (1, Version(version))
    except InvalidVersion:
        return (0, version)


def specification_of(
    version: str,
    *,
    adapter: Adapter,
    device: DeviceKind,
    parallel: bool,
    gpu: Gpu | None = None,
    origin: Origin | None = None,
    own_python: bool = False,
) -> EnvironmentSpec:
    """What is installed for the version of a case; ValueError where the adapter knows no environment for it.

    `gpu`: what it must run on, on cuda. `origin`: where it comes from, if not from where the adapter says.
    With `own_python` it must be there already, and may be one that dlperf cannot install.
    """
    if origin is not None:
        return environment_from(origin, adapter=adapter, device=device, parallel=parallel, gpu=gpu)
    try:
        return adapter.environment(version, device, parallel=parallel, gpu=gpu)
    except ValueError:
        if not own_python:
            raise
    nearest = adapter.environment(adapter.versions[0], device, parallel=parallel, gpu=gpu)
    return replace(nearest, version=version, cuda=None)
