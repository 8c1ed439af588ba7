"""Files: written whole or not at all, and the digests that identify them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint(path: Path | str) -> str:
    """Digest of a file's bytes, or of the names, sizes and times of a folder's files."""
    file = Path(str(path).partition(".py:")[0] + ".py") if ".py:" in str(path) else Path(path)
    if file.is_file():
        return sha256(file)
    entries = sorted((str(p.relative_to(file)), p.stat().st_size, p.stat().st_mtime_ns) for p in file.rglob("*"))
    return hashlib.sha256(repr(entries).encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def json_text(value: object) -> str:
    """JSON with one key a line."""
    return json.dumps(value, indent=1) + "\n"
