"""The report of a study: an HTML page with every figure, Markdown with three, the verdict first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..files import refuse_foreign, write_bytes, write_text
from . import figures
from .across import HEADER as ACROSS_HEADER
from .report_record import COST, DIFFERENCES, EPOCHS, METHOD, WORST, Picture, Report, make_report
from .report_tables import DIFFERENCE_HEADER
from .study_file import Study
from .trial import Places


def write_report(study: Study, places: Places, images: bool = False) -> tuple[Path, Path]:
    """Write ``report.html``, ``report.md`` and its pictures into the results folder.

    Args:
        study: the study.
        places: where its results lie.
        images: show the worst cases on slices of the images; without, outlines alone.

    Returns:
        page and Markdown.

    Raises:
        UserError: for a report.md there that is no report of a study.
    """
    html, markdown = places.results / "report.html", places.results / "report.md"
    refuse_foreign(markdown, "report of a study", ["`python -m perforated_monai report "])
    report = make_report(study, places, images)
    write_text(html, _render("report.html.jinja", report, study))
    write_text(markdown, _render("report.md.jinja", report, study))
    shown = {picture.name: picture for picture in report.pictures}
    for name in (DIFFERENCES, COST, EPOCHS):
        file = places.results / f"{name}.png"
        if name in shown:
            write_bytes(file, figures.as_png(shown[name].figure))
        else:
            file.unlink(missing_ok=True)
    return html, markdown


def _render(template: str, report: Report, study: Study) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        autoescape=template.endswith(".html.jinja"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not template.endswith(".html.jinja"),
    )
    environment.filters |= {"picture": _element, "row": _row}
    return environment.get_template(template).render(
        report=report,
        study=study.file.name,
        names=figures.NAMES,
        difference_header=DIFFERENCE_HEADER,
        across_header=ACROSS_HEADER,
        method=METHOD,
    )


def _element(picture: Picture) -> Markup:
    """The element of a page that shows a picture."""
    if picture.name == WORST:
        return Markup('<img alt="worst cases" src="{}">').format(figures.as_uri(picture.figure))
    return Markup(figures.as_svg(picture.figure, tight=picture.name == "sweep"))


def _row(cells: list[Any]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(str(c).replace("|", "/") for c in cells) + " |"
