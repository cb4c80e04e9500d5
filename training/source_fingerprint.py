"""Which code runs: a hash that ranks compare at start."""

import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("modeling", "sampling", "dataset", "training", "train_tokenizer", "train_generator", "evaluation", "utils")


@cache
def code_fingerprint() -> str:
    """SHA-256 over the project's Python files, by path below the repository and content."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
