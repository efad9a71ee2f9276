"""The page of `check --report`: counts, histograms, slices with label outlines, findings."""

from __future__ import annotations

import html
import math
from pathlib import Path
from string import Template

import numpy as np

from ..._version import __version__
from ...files import write_text
from ...rules import SEVERITIES, Finding, count
from .check import Audit
from .pictures import histogram_svg, slice_png
from .volume import Volume

PAGE = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
MOST_LINES = 2000  # findings on the page; a browser slows down beyond, --json has all


def write_report(audit: Audit, file: str | Path) -> None:
    """Write one self-contained page, atomically: no network, no script, no absolute path.

    Raises:
        UserError: when it cannot be written.
    """
    manifest = audit.manifest
    page = PAGE.substitute(
        title=html.escape(audit.root.name),
        manifest=html.escape(f"{manifest.name} {manifest.version}"),
        sha256=manifest.hash()[:16],
        version=__version__,
        counts=_counts(audit),
        histograms=_histograms(audit),
        legend=_legend(audit),
        slices=_slices(audit),
        findings=_findings(audit.findings),
    )
    write_text(Path(file).expanduser(), page)


def _counts(audit: Audit) -> str:
    numbers = count(audit.findings)
    cells = [(str(numbers[s]), s + "s", s if numbers[s] else "none") for s in SEVERITIES]
    cells.append((str(len(audit.pairs)), f"of {len(audit.manifest.cases)} cases read", "none"))
    folds = [len(ids) for ids in audit.manifest.folds]
    if folds:
        cells.append((str(len(audit.manifest.test)), "in the test part", "none"))
        cells.append(("+".join(map(str, folds)), "in the five folds", "none"))
    return "".join(
        f'<div class="count {kind}"><b>{number}</b>{html.escape(text)}</div>'
        for number, text, kind in cells
    )


def _histograms(audit: Audit) -> str:
    images = [im for im, _ in audit.pairs.values() if im.header is not None and len(im.shape) >= 3]
    if not images:
        return "<p>No header could be read.</p>"
    spacing = np.array([image.spacing for image in images])
    size = np.array([image.shape[:3] for image in images])
    rows = [
        histogram_svg(values[:, axis], f"{name} {letter}, {unit}")
        for name, unit, values in (("Spacing", "mm", spacing), ("Size", "voxels", size))
        for axis, letter in enumerate("xyz")
    ]
    return "".join(rows)


def _legend(audit: Audit) -> str:
    from .pictures import COLOURS

    names = [(v, n) for v, n in audit.manifest.label_names.items() if v]
    return "".join(
        f'<span class="label"><i style="background:rgb{COLOURS[(v - 1) % len(COLOURS)]}"></i>'
        f"{v} {html.escape(n)}</span>"
        for v, n in names
    )


def _slices(audit: Audit) -> str:
    worst: dict[str, str] = {}
    for finding in reversed(audit.findings):
        worst[finding.file] = finding.severity
    tiles = []
    for case, (image, label) in audit.pairs.items():
        if image.content is None or image.content.picture is None:
            continue
        severity = min(
            (worst[v.file] for v in (image, label) if v.file in worst),
            key=SEVERITIES.index,
            default="",
        )
        tiles.append(_tile(case, image, label, severity))
    return "".join(tiles) or "<p>No voxels were read.</p>"


def _tile(case: str, image: Volume, label: Volume, severity: str) -> str:
    assert image.content is not None and image.content.picture is not None
    outline = label.content.picture if label.content is not None else None
    source = slice_png(image.content.picture, outline)
    # A slice is drawn in mm, so that thick voxels look as they lie in the body.
    x, y = (n * mm for n, mm in zip(image.shape[:2], image.spacing[:2], strict=True))
    ratio = x / y if math.isfinite(x) and math.isfinite(y) and x > 0 and y > 0 else 1.0
    shape = " × ".join(map(str, image.shape))
    return (
        f'<figure class="{severity}"><img alt="middle slice of {html.escape(case)}" '
        f'style="aspect-ratio:{ratio:.4f}" src="data:image/png;base64,{source}">'
        f"<figcaption>{html.escape(case)}<small>{shape}</small></figcaption></figure>"
    )


def _findings(findings: list[Finding]) -> str:
    if not findings:
        return "<p>Nothing is wrong.</p>"
    rows = "".join(
        f'<tr class="{f.severity}"><td>{f.severity}</td><td>{f.rule}</td>'
        f"<td>{html.escape(f.file or 'the folder')}</td><td>{html.escape(f.message)}</td>"
        f"<td>{html.escape(f.value)}</td><td>{html.escape(f.cure)}</td></tr>"
        for f in findings[:MOST_LINES]
    )
    more = len(findings) - MOST_LINES
    note = f"<p>{more} more: see --json.</p>" if more > 0 else ""
    head = "".join(f"<th>{name}</th>" for name in ("", "rule", "file", "must", "found", "cure"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{note}"
