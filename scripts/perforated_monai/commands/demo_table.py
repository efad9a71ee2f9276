"""The demo's table: best validation epoch of each run, split where dendrites came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

Events = list[dict[str, Any]]


def table_columns(grown: Events, controls: dict[str, Events]) -> dict[str, dict[str, Any] | None]:
    """The columns of the table from histories; "after growth" is None without growth.

    Args:
        grown: history of the run with dendrites.
        controls: those of plain runs of as many epochs, by the title of their column.
    """
    last = max(e["epoch"] for e in grown)
    growth = next((e["epoch"] for e in grown if e["event"] == "grow"), last)
    return {
        "before growth": _column(grown, 1, growth),
        "after growth": _column(grown, growth + 1, last) if growth < last else None,
        **{title: _column(events, 1, last) for title, events in controls.items()},
    }


def _column(events: Events, first: int, last: int) -> dict[str, Any]:
    """Best epoch of ``first`` to ``last``; epochs and seconds count from the start of the run."""
    epochs = [e for e in events if e["event"] == "epoch" and e["epoch"] <= last]
    scored = [e for e in epochs if e["epoch"] >= first and e["dice"] is not None]
    best = max(scored, key=lambda e: e["dice"])
    # An epoch's own line counts what it ended with: growth shows in it before it has an effect.
    grown = [e["parameters"] for e in events if e["event"] == "grow" and e["epoch"] < best["epoch"]]
    return {
        "dice_per_class": best["dice_per_class"],
        "dice": best["dice"],
        "best_epoch": best["epoch"],
        "parameters": [epochs[0]["parameters"], *grown][-1],
        "epochs": len(epochs),
        "seconds": round(sum(e["seconds"] for e in epochs), 1),
    }


def make_table(columns: dict[str, dict[str, Any] | None], classes: Sequence[str]) -> Table:
    """The table of the demo; a column that is None shows dashes."""
    table = Table("", title="Best epoch on the validation phantoms")
    cells: list[list[str]] = []
    for title, c in columns.items():
        table.add_column(title, justify="right")
        if c is None:
            cells.append(["-"] * (len(classes) + 4))
            continue
        dice = [f"{value:.4f}" for value in (*c["dice_per_class"], c["dice"])]
        epochs = f"{c['epochs']} (best {c['best_epoch']})"
        cells.append([*dice, f"{c['parameters']:,}", epochs, f"{c['seconds']:.0f}"])
    names = [f"Dice, {name}" for name in (*classes, "mean")]
    for row in zip([*names, "parameters", "epochs", "seconds"], *cells, strict=True):
        table.add_row(*row)
    return table
