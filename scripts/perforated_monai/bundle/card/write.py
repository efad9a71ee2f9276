"""``docs/MODEL_CARD.md`` of a bundle."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError

from ...data.scores import ABOUT, TABLE, read_scores
from ...errors import UserError
from ...files import write_bytes, write_text
from . import figures
from .facts import Facts, read_facts

CARD = "MODEL_CARD.md"
_TEMPLATE = "model_card.md.jinja"


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
    try:
        text = card_text(facts)
    except (TypeError, ValueError, LookupError, AttributeError, TemplateError) as error:
        if isinstance(error, UserError):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        msg = (
            f"{bundle}: no card can be written, for configs/metadata.json or models/*.json hold "
            f"something of another kind ({reason}). Correct them; `check` names what is wrong."
        )
        raise UserError(msg) from error
    docs.mkdir(exist_ok=True)
    write_text(docs / CARD, text)
    return docs / CARD


def card_text(facts: Facts) -> str:
    """The card as Markdown."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cost"] = figures.cost
    environment.globals.update(
        (name, value) for name, value in vars(figures).items() if not name.startswith("_")
    )
    return environment.get_template(_TEMPLATE).render(facts=facts)


def _refuse_other_weights(folder: Path, facts: Facts) -> None:
    scores = read_scores(folder)
    if scores is None:
        msg = f"{folder} must hold {TABLE} and {ABOUT} of an evaluation; it holds neither."
        raise UserError(f"{msg} Name the output_dir of evaluate.json.")
    if scores.about.get("model_sha256") != facts.record.get("model_sha256"):
        msg = f"{folder} scored other weights than models/model.pt of {facts.name}. Evaluate again."
        raise UserError(msg)
