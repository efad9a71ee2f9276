"""``efficiency.md`` with its table and claims, ``efficiency.json`` and ``efficiency.png``."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..._version import __version__
from ...bundle.card.figures import table
from ...errors import UserError
from ...files import atomic, refuse_foreign, write_json, write_text
from .claims import NO_GPU, NO_METER, Claim, controls, measured, read_claims
from .cost import measure_costs
from .figure import draw
from .subject import Subject, read_subject

MISSING = "not measured"
_HEAD = (
    *("network", "Dice", "classes", "sets", "parameters", "FLOPs", "file"),
    *("ms, 1 thread", "ms, 2 threads", "ms, GPU", "memory", "energy"),
)


def write_efficiency(
    networks: Sequence[str],
    out: str | Path,
    window: Sequence[int] = (),
    claims: str | Path = "",
    rounds: int = 7,
) -> Path:
    """Measure bundles and runs side by side and write the card.

    Args:
        networks: each ``NAME=FOLDER`` or ``FOLDER``, a bundle or a run folder.
        out: folder for ``efficiency.md``, ``.json`` and ``.png``.
        window: voxels of the input; by default the window of the first network.
        claims: YAML file of claims to put beside the measurements.
        rounds: timed calls of each network.

    Returns:
        the page.

    Raises:
        UserError: for a folder without a network, a name given twice, or networks that cannot be
            compared.
    """
    subjects = [read_subject(text) for text in networks]
    names = [s.name for s in subjects]
    twice = next((n for n in names if names.count(n) > 1), None)
    if not subjects or twice:
        got = f"{twice!r} twice" if twice else "none"
        msg = f"Networks must have names of their own; got {got}. Write NAME=FOLDER."
        raise UserError(msg)
    read = read_claims(claims) if claims else []
    size = list(window) or list(subjects[0].window)
    if not size:
        msg = f"{names[0]} does not say its window. Give --window, such as 96,96,96."
        raise UserError(msg)
    out = Path(out)
    _refuse_other_pages(out)
    costs = measure_costs(subjects, size, rounds)
    out.mkdir(parents=True, exist_ok=True)
    figure = draw(subjects, costs["rows"])
    if figure is not None:
        with atomic(out / "efficiency.png") as temporary, temporary.open("wb") as handle:
            figure.savefig(handle, format="png")
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    write_json(out / "efficiency.json", _record(subjects, costs) | {"date": today})
    text = page_text(subjects, costs, read, today, drawn=figure is not None)
    write_text(out / "efficiency.md", text)
    return out / "efficiency.md"


def _refuse_other_pages(out: Path) -> None:
    """Refuse, before hours of measuring, to replace files that no card of ours left there."""
    refuse_foreign(out / "efficiency.json", "efficiency card", ['"written_by": "perforated_monai'])
    refuse_foreign(out / "efficiency.md", "efficiency card", ["`python -m perforated_monai effic"])
    if (out / "efficiency.png").exists() and not (out / "efficiency.json").exists():
        msg = f"{out / 'efficiency.png'} is of no efficiency card: choose another --out."
        raise UserError(msg)


def _record(subjects: Sequence[Subject], costs: dict[str, Any]) -> dict[str, Any]:
    rows = {}
    for s in subjects:
        mean = s.mean_dice
        rows[s.name] = costs["rows"][s.name] | {
            "base": s.base,
            "dendrite_sets": s.sets,
            "dice": {k: [v.mean, v.low, v.high] for k, v in s.dice.items()},
            "mean_dice": None if mean is None else [mean.mean, mean.low, mean.high],
            "scored": s.scored or None,
        }
    return costs | {"rows": rows, "written_by": f"perforated_monai {__version__}"}


def page_text(
    subjects: Sequence[Subject],
    costs: dict[str, Any],
    claims: Sequence[Claim],
    today: str,
    drawn: bool,
) -> str:
    """The page as Markdown; ``drawn`` says whether the figure lies beside it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    rows = costs["rows"]
    return environment.get_template("efficiency.md.jinja").render(
        today=today,
        costs=costs,
        window=" × ".join(map(str, costs["window"])),
        missing=MISSING,
        metered=any(row["joules"] is not None for row in rows.values()),
        drawn=drawn,
        table=table(_HEAD, [_row(s, rows[s.name]) for s in subjects]),
        subjects=subjects,
        claims=[(c.claim, measured(c, subjects, rows), list(controls(c))) for c in claims],
    )


def _row(subject: Subject, row: dict[str, Any]) -> list[str]:
    mean = subject.mean_dice
    dice = MISSING if mean is None else _interval(mean.mean, mean.low, mean.high)
    classes = ", ".join(f"{k} {_interval(v.mean, v.low, v.high)}" for k, v in subject.dice.items())
    memory, joules = row["peak_memory_mib"], row["joules"]
    return [
        *(subject.name, dice, classes or MISSING, str(subject.sets)),
        f"{row['parameters']:,}",
        f"{row['flops'] / 1e9:.3f} G",
        f"{row['file_bytes'] / 1e3:,.0f} kB",
        *(_ms(row[key]) for key in ("ms_1", "ms_2")),
        NO_GPU if row["ms_gpu"] is None else _ms(row["ms_gpu"]),
        MISSING if memory is None else f"{memory:.1f} MiB",
        NO_METER if joules is None else f"{joules:.3f} J",
    ]


def _interval(mean: float, low: float | None, high: float | None) -> str:
    return f"{mean:.4f}" if low is None or high is None else f"{mean:.4f} ({low:.4f}–{high:.4f})"


def _ms(times: dict[str, float] | None) -> str:
    return (
        MISSING if times is None else f"{times['median']:.2f} ({times['q1']:.2f}–{times['q3']:.2f})"
    )
