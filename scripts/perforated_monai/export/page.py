"""The page of an exported bundle: what it is now, above what its source says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import write_text

_TOP, _END = "<!-- exported -->", "<!-- /exported -->"


def write_page(stage: Path, record: Mapping[str, Any], source: str) -> None:
    """Put the network and the place of its proof on top of ``docs/README.md``.

    Args:
        stage: the new bundle; a page of an earlier export is replaced, and one is made where the
            source has none.
        record: what ``network.json`` holds.
        source: name of the bundle that it was made from.
    """
    page = stage / "docs" / "README.md"
    before = page.read_text(encoding="utf-8") if page.is_file() else ""
    if _TOP in before and _END in before:
        before = before.partition(_END)[2].lstrip("\n")
    page.parent.mkdir(exist_ok=True)
    write_text(page, f"{_section(record, source)}\n{before}")


def _section(record: Mapping[str, Any], source: str) -> str:
    trained, parameters = record["trained"], record["parameters"]
    grown = len(record["dendrites"])
    network = f"{record['base']['name']}, {parameters['total']:,} parameters"
    if grown:
        added = parameters["total"] - parameters["base"]
        network += f", {added:,} of them in dendrites at {grown} layers"
    score = trained.get("validation_metric", "Dice")
    return "\n".join(
        [
            _TOP,
            f"# {source}, with a network grown by perforated_monai",
            "",
            f"Network: {network}. Best validation: {score} {trained['validation_dice']:.4f} in "
            f"epoch {trained['best_epoch']} of {trained['epochs']}. Its weights are",
            "`models/model.pt`, its structure is in `models/network.json`. **What stands below the "
            "line is the page of",
            f"{source}**: its weights, scores, figures and links are those of the former network.",
            "",
            "<!-- parity -->",
            "<!-- /parity -->",
            "",
            "---",
            _END,
            "",
        ]
    )
