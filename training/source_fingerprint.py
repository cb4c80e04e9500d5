"""A hash of the project's source code, which ranks compare at start."""

import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@cache
def source_fingerprint() -> str:
    """SHA-256 over path and content of every Python file in the packages of the repository."""
    digest = hashlib.sha256()
    for package in sorted(path.parent for path in ROOT.glob("*/__init__.py")):
        for path in sorted(package.rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
