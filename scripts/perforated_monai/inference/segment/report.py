"""What a person sees of a run: a bar, or in a log file a line a case, and a closing table."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from .table import DONE, FAILED, Row

_MOST_ROWS = 30
_WIDTH = 120  # of the table where there is no terminal


class Report:
    """Progress on stderr, the closing table on stdout.

    On a terminal a bar shows case, rate and time left; in a log file each case is one line.

    Args:
        cases: how many there are.
        enabled: False shows nothing.
    """

    def __init__(self, cases: int, enabled: bool = True) -> None:
        self.enabled = enabled
        self._cases, self._done = cases, 0
        self._terminal = enabled and sys.stderr.isatty()
        self._bar: Any = tqdm(
            total=cases,
            unit="case",
            disable=not self._terminal,
            dynamic_ncols=True,
            file=sys.stderr,
        )

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def left_out(self, lines: list[str]) -> None:
        """Say what the search passed over."""
        if lines:
            self.say(f"left out: {'; '.join(lines)}")

    def say(self, text: str) -> None:
        """A line beside the bar."""
        if self.enabled and text:
            self._bar.write(text, file=sys.stderr)

    def current(self, name: str) -> None:
        """The case that the network works on."""
        self._bar.set_description_str(name[:40])

    def done(self, row: Row, kept: bool = False) -> None:
        """A case has ended."""
        self._bar.update()
        self._done += 1
        count = "" if self._terminal else f"{self._done}/{self._cases} "
        if row["status"] == FAILED:
            self.say(f"{count}FAILED {row['case']}: {row['reason']}")
        elif count:
            self.say(f"{count}{row['case']}: {'kept from before' if kept else row['status']}")
        for note in () if kept else row.get("notes", []):
            self.say(f"{row['case']}: {note}")

    def closing(self, rows: list[Row], kept: int, output: Path) -> None:
        """Table of up to 30 cases (of the failed ones where there are more), and the sums."""
        if not self.enabled:
            return
        failed = [row for row in rows if row["status"] == FAILED]
        console = Console(width=None if sys.stdout.isatty() else _WIDTH)
        if shown := rows if len(rows) <= _MOST_ROWS else failed[:_MOST_ROWS]:
            console.print(_table(shown))
        done = [row for row in rows if row["status"] == DONE]
        seconds = [row.get("seconds_network", 0.0) for row in done]
        pace = f", median {statistics.median(seconds):.2f} s in the network" if seconds else ""
        again = f" ({kept} of them kept from before)" if kept else ""
        console.print(
            Text(f"{len(done)} done{again}, {len(failed)} failed{pace}. Output: {output}")
        )


def _table(rows: list[Row]) -> Table:
    volumes = [k for row in rows for k in row if k.startswith("volume_ml_")]
    columns = list(dict.fromkeys(volumes))
    table = Table()
    table.add_column("case", overflow="fold")
    table.add_column("status")
    for name in columns:
        table.add_column(
            name.removeprefix("volume_ml_").replace("_", " ") + "\nmL", justify="right"
        )
    for name in ("confidence", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("reason, notes", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in _cells(row, columns)))
    return table


def _cells(row: Row, columns: list[str]) -> list[str]:
    seconds = sum(row.get(f"seconds_{part}", 0) for part in ("read", "network", "write"))
    return [
        row["case"],
        row["status"],
        *(_number(row.get(name), 3) for name in columns),
        _number(row.get("confidence_mean"), 3),
        _number(seconds, 2),
        "; ".join([row["reason"], *row.get("notes", [])]).strip("; "),
    ]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
