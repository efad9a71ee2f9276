"""Everything that a model card tells, as the bundle's files have it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.manifest import Manifest, load_manifest
from ...data.reading import read_mapping
from ...data.scores import Scores, read_scores
from ...errors import UserError
from ...files import hash_of


@dataclass(frozen=True)
class Facts:
    """What is known of a bundle; None, or empty, where nothing was measured.

    Attributes:
        record: ``models/network.json``.
        parity: ``models/parity.json``, when it is of this network.
        manifest: of the training where the bundle has it, else the one that train.json names.
        same_manifest: whether its hash is that of the training.
        scores: of ``docs/cases.csv``, when it is of these weights.
        scores_reason: why there are none.
        code_licence: first lines of ``LICENSE``.
        limitations: that section of ``docs/README.md``.
    """

    name: str
    metadata: dict[str, Any]
    record: dict[str, Any]
    parity: dict[str, Any]
    manifest: Manifest | None
    same_manifest: bool
    scores: Scores | None
    scores_reason: str
    code_licence: str
    limitations: str

    @property
    def trained(self) -> dict[str, Any]:
        """What ``network.json`` says of the training."""
        return self.record.get("trained") or {}


def read_facts(bundle: Path) -> Facts:
    """Read a bundle's files; nothing of it runs.

    Raises:
        UserError: no metadata, a file that is damaged, or weights that ``network.json`` does not
            describe.
    """
    metadata = _json(bundle / "configs" / "metadata.json")
    if not metadata:
        msg = f"{bundle} is no bundle: configs/metadata.json is missing. Correct the path."
        raise UserError(msg)
    record = _record(bundle)
    manifest, same = _manifest(bundle, (record.get("trained") or {}).get("manifest_sha256"))
    scores, reason = _scores(bundle, record.get("model_sha256"))
    return Facts(
        name=bundle.resolve().name,
        metadata=metadata,
        record=record,
        parity=_parity(bundle, record),
        manifest=manifest,
        same_manifest=same,
        scores=scores,
        scores_reason=reason,
        code_licence=_licence(bundle / "LICENSE"),
        limitations=_section(bundle / "docs" / "README.md", "Limitations"),
    )


def _json(file: Path) -> dict[str, Any]:
    """Content of a JSON file; empty where there is none."""
    return read_mapping(file, "Restore it") if file.exists() else {}


def _record(bundle: Path) -> dict[str, Any]:
    record, model = _json(bundle / "models" / "network.json"), bundle / "models" / "model.pt"
    if record and model.is_file() and hash_of(model) != record.get("model_sha256"):
        msg = f"{model} is not the file that models/network.json describes. Export again."
        raise UserError(msg)
    return record


def _parity(bundle: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Times and sizes; empty when they are of a network of another size."""
    parity = _json(bundle / "models" / "parity.json")
    return parity if parity.get("parameters") == record.get("parameters") else {}


def _scores(bundle: Path, model_sha256: str | None) -> tuple[Scores | None, str]:
    scores = read_scores(bundle / "docs")
    if scores is None:
        return None, ""
    if scores.about.get("model_sha256") != model_sha256 or model_sha256 is None:
        return None, "docs/cases.csv is of other weights"
    return scores, ""


def _manifest(bundle: Path, wanted: str | None) -> tuple[Manifest | None, bool]:
    """The manifest with the hash of the training, or else the one that train.json names."""
    for file in sorted((bundle / "configs").glob("*.json")):
        data = file.read_bytes()
        if wanted and hashlib.sha256(data).hexdigest() == wanted:
            return load_manifest(file), True
    named = re.search(r"configs/([\w.-]+\.json)", str(_json(_train(bundle)).get("manifest", "")))
    if named and (bundle / "configs" / named[1]).is_file():
        return load_manifest(bundle / "configs" / named[1]), False
    return None, False


def _train(bundle: Path) -> Path:
    return bundle / "configs" / "train.json"


def _licence(file: Path) -> str:
    """Name and version in the first lines of a licence; empty without one."""
    if not file.is_file():
        return ""
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return ", ".join([line for line in lines if line][:2])


def _section(file: Path, title: str) -> str:
    """Text of a section of a page, on one line a paragraph."""
    if not file.is_file():
        return ""
    text = file.read_text(encoding="utf-8")
    match = re.search(rf"^#+ {title}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    return match[1].strip() if match else ""
