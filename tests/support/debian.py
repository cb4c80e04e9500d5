"""Small Debian packages."""

import subprocess
from pathlib import Path

CONTROL = "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x.org>\nDescription: x\n"


def make_package(folder: Path, files: dict[str, bytes]) -> Path:
    """folder/x.deb with these files by path."""
    for path, content in {"DEBIAN/control": CONTROL.encode(), **files}.items():
        (folder / "package" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "package" / path).write_bytes(content)
    package = folder / "x.deb"
    subprocess.run(["dpkg-deb", "--build", folder / "package", package], check=True, capture_output=True)
    return package
