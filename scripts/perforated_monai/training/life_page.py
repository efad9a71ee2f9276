"""The page of one run: what happened in which epoch, and what the tracker decided."""

from __future__ import annotations

from typing import Any

from ..errors import UserError
from .run_folder import RunFolder

_SETTINGS = ("switch", "patience", "max_dendrites", "tries", "sets", "kind", "lr_restart")
TITLE = "# One run"


def life_page(folder: RunFolder) -> str:
    """Markdown of a run: its two phases, every event, the network before and after.

    It holds no time, path or machine, so the same training gives the same page to the byte.

    Args:
        folder: of a run that has validated at least once; it need not be finished.

    Raises:
        UserError: without a validation to tell of, or for files that cannot be read.
    """
    events = folder.history()
    config = folder.provenance().config
    epochs = [e for e in events if e["event"] == "epoch"]
    scored = [e for e in epochs if e["dice"] is not None]
    if not scored:
        msg = f"{folder.history_file} has no validation yet. Let the run go on, then ask again."
        raise UserError(msg)
    end = next((e for e in events if e["event"] == "complete"), None)
    name = scored[-1].get("metric") or "Dice"
    lines = [TITLE, "", _first_words(config, epochs, end, name), ""]
    if folder.dice_picture.is_file():
        lines += [
            f"![{name} by epoch, a line where dendrites were added]({folder.dice_picture.name})",
            "",
        ]
    lines += ["## What happened", "", f"| epoch | event | {name} |", "|---|---|---|"]
    lines += [f"| {epoch} | {text} | {score} |" for epoch, text, score in _rows(events)]
    settings = config.get("dendrites")
    if isinstance(settings, dict):
        lines += ["", "## How it was decided", "", _RULES, ""]
        lines += [f"- `{key}: {settings[key]}`" for key in _SETTINGS if key in settings]
    return "\n".join(lines) + "\n"


_RULES = (
    "After each validation the handler gives the score to perforatedai's tracker, and the tracker "
    "answers: train on, add a set of dendrites, draw the last one anew, or stop. Before a set is "
    "added the network goes back to its best epoch. A set is on trial until the score rises by "
    "more than the threshold; one that never does is taken out again. At the end the best network "
    "is back. Its settings:"
)


def _first_words(
    config: dict[str, Any], epochs: list[dict[str, Any]], end: dict[str, Any] | None, name: str
) -> str:
    first, last = epochs[0], epochs[-1]
    network = config.get("base_network_def")
    kind = str(network.get("_target_", "")).rpartition(".")[2] if isinstance(network, dict) else ""
    what = f"A {kind}" if kind else "A network"
    text = f"{what} of {first['parameters']:,} parameters trained for {last['epoch']} epochs"
    if end is None:
        return f"{text} so far; it is not finished."
    sets = end["integrated_dendrite_sets"]
    kept = "no set of dendrites" if not sets else f"{sets} set{'s' * (sets > 1)} of dendrites"
    best = next((e for e in epochs if e["epoch"] == end["best_epoch"]), last)
    grown = f" ({best['parameters']:,} parameters)" if sets else ""
    return (
        f"{text}. Its best network is that of epoch {end['best_epoch']}, with {kept}{grown}: "
        f"{name} {end['best_dice']:.4f} of the validation cases."
    )


def _rows(events: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Epochs without news are one row; every other event has its own."""
    rows: list[tuple[str, str, str]] = []
    best = float("-inf")
    start: dict[str, Any] | None = None
    for event in events:
        if event["event"] != "epoch":
            if text := _told(event):
                rows.append((str(event["epoch"]), text, _number(event)))
            continue
        start = start or event
        if event["dice"] is None:
            continue
        news = "a new best" if event["dice"] > best else "no new best"
        best = max(best, event["dice"])
        span = _span(start["epoch"], event["epoch"])
        rows.append((span, f"trains at rates {_rates(start, event)}; {news}", _number(event)))
        start = None
    return rows


def _span(first: int, last: int) -> str:
    return str(last) if first == last else f"{first}–{last}"


def _rates(first: dict[str, Any], last: dict[str, Any]) -> str:
    low, high = first["lr"][0], last["lr"][0]
    return f"{low:.2g}" if low == high else f"{low:.2g} to {high:.2g}"


def _told(event: dict[str, Any]) -> str:
    """One event in words; empty for one that another row already tells."""
    told: dict[str, str] = {
        "rollback": "back to the weights of epoch {to_epoch}",
        "grow": "**the tracker adds set {sets}** (places: {layers}): {parameters:,} parameters",
        "accept": "set {sets} has raised the score and is kept",
        "reject": "set {sets} has not raised the score and is taken out",
        "leave_out": "layers that never ran are left out: {layers}",
        "settle": "the epochs are over",
        "complete": "the run ends with its best network, of epoch {best_epoch}",
    }
    pattern = told.get(event["event"])
    if pattern is None:
        return event["event"].replace("_", " ")
    return pattern.format(**event)


def _number(event: dict[str, Any]) -> str:
    for key in ("dice", "dice_after", "best_dice", "dice_before"):
        if isinstance(event.get(key), float):
            return f"{event[key]:.4f}"
    return ""
