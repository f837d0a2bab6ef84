"""Real wheels and a real index, made on the spot."""

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import sys
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

from pydantic import TypeAdapter

from dlperf.adapters.base import EnvironmentSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT_SECONDS = 60

_MAKER = """
import sys
from pydantic import TypeAdapter
from dlperf.adapters.base import EnvironmentSpec
from dlperf.environments import ensure
print(ensure(TypeAdapter(EnvironmentSpec).validate_json(sys.argv[1])).python)
"""


@contextmanager
def maker(spec: EnvironmentSpec) -> Iterator[subprocess.Popen[str]]:
    """Another process that wants the environment."""
    told = TypeAdapter(EnvironmentSpec).dump_json(spec).decode()
    process = subprocess.Popen(
        [sys.executable, "-c", _MAKER, told],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def write_wheel(folder: Path, name: str, version: str) -> Path:
    """A wheel with one module that knows its version."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    files = {
        f"{module}.py": f'__version__ = "{version}"\n',
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},{_digest(text)},{len(text)}\n" for path, text in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    wheel = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


def write_source(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """A source distribution of `files`."""
    root = f"{name.replace('-', '_')}-{version}"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    archive = folder / f"{root}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for path, text in {"PKG-INFO": metadata, **files}.items():
            entry = tarfile.TarInfo(f"{root}/{path}")
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return archive


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class HoldingIndex:
    """A simple index on this machine whose wheels do not arrive before `release`."""

    def __init__(self, wheelhouse: Path) -> None:
        self.authorization: str | None = None  # the header without which it answers 401
        self.asked = threading.Event()  # somebody wants a wheel
        self.released = threading.Event()
        self.delivered = threading.Event()  # a wheel was sent, released or after WAIT_SECONDS
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(wheelhouse))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/simple"

    def release(self) -> None:
        self.released.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self, wheelhouse: Path) -> type[BaseHTTPRequestHandler]:
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if index.authorization not in (None, self.headers["Authorization"]):
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", "Basic")
                    self.end_headers()
                    return
                name = self.path.strip("/").rpartition("/")[2]
                wheel = wheelhouse / name
                if wheel.suffix == ".whl":
                    index.asked.set()
                    index.released.wait(WAIT_SECONDS)
                    index.delivered.set()
                    self._answer("application/octet-stream", wheel.read_bytes())
                else:
                    wheels = wheelhouse.glob(f"{name.replace('-', '_')}-*.whl")
                    links = "".join(f'<a href="/files/{found.name}">{found.name}</a>' for found in wheels)
                    self._answer("text/html", f"<!DOCTYPE html><html><body>{links}</body></html>".encode())

            def do_HEAD(self) -> None:
                self._answer("application/octet-stream", b"")

            def _answer(self, kind: str, body: bytes) -> None:
                try:
                    self.send_response(200)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # whoever asked was killed

            def log_message(self, *_: object) -> None:
                pass

        return Handler
