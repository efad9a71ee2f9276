"""`large_files.yml` of a bundle: files that lie elsewhere, in the format of MONAI's model zoo."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data.reading import read
from ..errors import UserError
from ..files import hash_of

NAMES = ("large_files.yml", "large_files.yaml", "large_files.json")
HASHES = ("md5", "sha1", "sha256", "sha512")  # what MONAI's download checks
MOST_BYTES = 100_000


@dataclass(frozen=True)
class LargeFile:
    """One file: where it goes in the bundle, where it lies, and what its hash must be."""

    path: str
    url: str
    hash_val: str = ""
    hash_type: str = ""

    def matches(self, file: Path) -> bool:
        """Whether a file on this machine has the hash; True where none is given."""
        if not self.hash_val:
            return True
        return hash_of(file, self.hash_type) == self.hash_val.lower()


def list_of(root: Path) -> Path | None:
    """The list of a bundle, or None."""
    return next((root / name for name in NAMES if (root / name).is_file()), None)


def read_large_files(root: Path) -> list[LargeFile]:
    """What a bundle's list names; empty without a list.

    Raises:
        UserError: for a list that cannot be read, or an entry without path or url.
    """
    file = list_of(root)
    if file is None:
        return []
    try:
        entries = read(file, MOST_BYTES)["large_files"]
        return [_entry(entry) for entry in entries]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        msg = f"{file} must list path, url, hash_val and hash_type; got {reason}. Correct it."
        raise UserError(msg) from None


def large_files_text(entries: Iterable[LargeFile]) -> str:
    """The list as YAML, in the order of the paths."""
    import yaml

    records = [asdict(entry) for entry in sorted(entries, key=lambda entry: entry.path)]
    return yaml.safe_dump({"large_files": records}, sort_keys=False)


def _entry(entry: dict[str, Any]) -> LargeFile:
    fields = {key: str(entry.get(key) or "") for key in ("path", "url", "hash_val", "hash_type")}
    if not fields["path"] or not fields["url"]:
        msg = "an entry without path or url"
        raise ValueError(msg)
    if fields["hash_val"] and fields["hash_type"] not in HASHES:
        msg = f"hash_type {fields['hash_type']!r}, not one of {', '.join(HASHES)}"
        raise ValueError(msg)
    return LargeFile(**fields)
