"""The Markdown copy of a report."""

from __future__ import annotations

from typing import Any

from . import figures
from .tables import DIFFERENCES


def markdown(values: dict[str, Any]) -> str:
    """The report as Markdown, from the values of the page."""
    study = values["study"]
    lines = [f"# {study.title or study.name}", ""]
    lines += [study.note, ""] if study.note else []
    for block in values["blocks"]:
        lines += [f"## {block.network}", ""]
        for _, judged in block.verdicts:
            lines += [f"- **{verdict}**: {against}. {facts}." for against, verdict, facts in judged]
        lines += ["", *(f"- {n}" for n in block.notes), "", "### Arms", ""]
        lines += _table(values["header"], block.arms)
        for metric, rows in block.differences.items():
            if rows:
                lines += ["", f"### Differences, {figures.NAMES[metric]}", ""]
                lines += _table(list(DIFFERENCES), rows)
        lines.append("")
    header, rows = values["trials"]
    if rows:
        lines += ["## Sweep", "", *_table(header, rows), ""]
    lines += ["## Arms and method", ""]
    lines += [f"- `{arm}`: {what}" for arm, what in values["what"]]
    lines += ["", values["method"], "", "## What was run", ""]
    lines += [f"- {name}: {value}" for name, value in values["facts"]]
    lines += ["", "Figures: report.html beside this file.", ""]
    return "\n".join(lines)


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    cells = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(c.replace("|", "/") for c in row) + " |" for row in cells]
