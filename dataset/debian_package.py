"""Files out of Debian packages, which are unpacked and not installed."""

import hashlib
import http.client
import io
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from utils.progress import tqdm

POOL = "http://deb.debian.org/debian/pool/main/"
TIMEOUT = 20  # seconds without an answer
# Raised by a failed download, and by reading or unpacking a wrong or damaged file.
SOURCE_ERRORS = (OSError, ValueError, EOFError, zlib.error, tarfile.TarError, http.client.HTTPException)


@dataclass(frozen=True)
class DebianPackage:
    path: str  # below POOL
    sha256: str

    @property
    def url(self) -> str:
        return POOL + self.path


def download(url: str) -> bytes:
    """The bytes of a file, with a progress bar. Raises SOURCE_ERRORS."""
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        size = int(response.headers.get("Content-Length", 0)) or None
        out = io.BytesIO()
        with tqdm(total=size, unit="B", unit_scale=True, desc=url.rsplit("/", 1)[-1][:30]) as bar:
            while block := response.read(1 << 18):
                out.write(block)
                bar.update(len(block))
    return out.getvalue()


def verified(data: bytes, sha256: str, source: str) -> bytes:
    """`data` itself. Raises ValueError if it has another SHA-256."""
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(f"{source} has the wrong SHA-256")
    return data


def unpack(package: bytes, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Path (without a leading ./) and bytes of each file of a .deb that is wanted. Raises SOURCE_ERRORS."""
    if shutil.which("dpkg-deb") is None:
        raise FileNotFoundError("the command dpkg-deb is needed to unpack the package, and is not installed")
    with tempfile.NamedTemporaryFile(suffix=".deb") as file:
        file.write(package)
        file.flush()
        result = subprocess.run(["dpkg-deb", "--fsys-tarfile", file.name], capture_output=True)
    if result.returncode:
        raise ValueError(result.stderr.decode(errors="replace").strip())
    with tarfile.open(fileobj=io.BytesIO(result.stdout)) as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if member.isfile() and wanted(name):
                yield name, archive.extractfile(member).read()
