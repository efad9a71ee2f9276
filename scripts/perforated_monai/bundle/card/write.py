"""``docs/MODEL_CARD.md`` of a bundle."""

from __future__ import annotations

from pathlib import Path

from ...data.scores import ABOUT, TABLE, read_scores
from ...errors import UserError
from ...files import write_bytes, write_text
from . import sections
from .facts import Facts, read_facts

CARD = "MODEL_CARD.md"
_SECTIONS = (
    ("Model", sections.model),
    ("Data and split", sections.data),
    ("Training", sections.training),
    ("Dice per class", sections.scores),
    ("Size and cost", sections.size),
    ("Structure history", sections.structure),
    ("Limits", sections.limits),
)


def write_card(bundle: str | Path, evaluation: str | Path | None = None) -> Path:
    """Write the model card of a bundle from the files that measured something.

    Read are ``configs/metadata.json``, the manifest in ``configs/``, ``models/network.json``,
    ``models/parity.json``, ``docs/cases.csv`` with ``docs/cases.json``, ``LICENSE`` and the section
    Limitations of ``docs/README.md``. The same files give the same card.

    Args:
        bundle: its folder.
        evaluation: ``output_dir`` of an ``evaluate.json``; its ``cases.csv`` and ``cases.json`` are
            copied to ``docs/`` first.

    Returns:
        the card, ``docs/MODEL_CARD.md``.

    Raises:
        UserError: no bundle, a damaged file, or an evaluation of other weights.
    """
    bundle = Path(bundle)
    facts = read_facts(bundle)
    docs = bundle / "docs"
    if evaluation is not None:
        _refuse_other_weights(Path(evaluation), facts)
        docs.mkdir(exist_ok=True)
        for name in (TABLE, ABOUT):
            write_bytes(docs / name, (Path(evaluation) / name).read_bytes())
        facts = read_facts(bundle)
    docs.mkdir(exist_ok=True)
    write_text(docs / CARD, card_text(facts))
    return docs / CARD


def card_text(facts: Facts) -> str:
    """The card as Markdown."""
    lines = [*sections.front_matter(facts), "", f"# {facts.metadata.get('name', facts.name)}", ""]
    if facts.metadata.get("segment", {}).get("phantom_weights"):
        lines += [f"**{sections.PHANTOMS}**", ""]
    lines += [
        "Written by `python -m perforated_monai card` from the files of the bundle, never by hand; "
        f'what no file holds a figure for reads "{sections.MISSING}".',
        "",
    ]
    for title, section in _SECTIONS:
        lines += [f"## {title}", "", *section(facts), ""]
    lines += ["## Intended use", "", str(facts.metadata.get("intended_use", sections.MISSING)), ""]
    lines += ["## Licences", "", *sections.licences(facts)]
    return "\n".join(lines) + "\n"


def _refuse_other_weights(folder: Path, facts: Facts) -> None:
    found = read_scores(folder)
    if found is None:
        msg = f"{folder} must hold {TABLE} and {ABOUT} of an evaluation; it holds neither."
        raise UserError(f"{msg} Name the output_dir of evaluate.json.")
    if found.about.get("model_sha256") != facts.record.get("model_sha256"):
        msg = f"{folder} scored other weights than models/model.pt of {facts.name}. Evaluate again."
        raise UserError(msg)
