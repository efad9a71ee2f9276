"""The command ``report``: pages of a study, of a training run, and of a folder of masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..training.run_folder import RunFolder


def report(
    target: str,
    results: str = "",
    work: str = "",
    images: bool = False,
    out: str = "",
    scans: str = "",
    reviewed: str = "",
    series: str = "",
) -> int:
    """Write the report of a study, the page of a training run, or that of masks from segment.

    Args:
        target: study file, output folder of a training (report.md, with dice.png), or of segment.
        results: folder of the study's results; by default results/<study> beside the study file.
        work: folder of the study's checkpoints; by default work in the results folder.
        images: of a study: show the worst cases on slices of the images, which lie in the work
            folder.
        out: of masks: HTML file; by default report.html in their folder.
        scans: of masks: what was segmented; by default where it lay beside the masks.
        reviewed: of masks: CSV of reviews, saved from such a page, to begin with.
        series: of masks: DICOM series, as it was given to segment.
    """
    from ..errors import UsageError, UserError

    folder = Path(str(target))
    of_study = {"results": results, "work": work, "images": images}
    of_masks = {"out": out, "scans": scans, "reviewed": reviewed, "series": series}
    wrong = [flag for flag, value in (of_study if folder.is_dir() else of_masks).items() if value]
    if wrong:
        other = "a study file" if folder.is_dir() else "a folder of masks"
        msg = f"report takes --{wrong[0]} with {other} only; {target} is none."
        raise UsageError(msg)
    if not folder.is_dir():
        from . import study_run

        return study_run.report(str(target), str(results), str(work), images=bool(images))
    if (folder / "study.json").is_file():
        msg = f"{folder} holds the results of a study: give report the study's file."
        raise UserError(msg)
    from ..training.run_folder import RunFolder

    if (run := RunFolder(folder)).history_file.is_file():
        return _run_page(run, of_masks)
    from ..inference.segment.page import write_page

    page = Path(str(out)) if out else folder / "report.html"
    write_page(folder, page, str(scans), str(reviewed), str(series))
    print(page)
    return 0


def _run_page(run: RunFolder, flags: dict[str, str]) -> int:
    from ..errors import UsageError
    from ..files import refuse_foreign, write_text
    from ..training.life_page import TITLE, life_page

    if wrong := [flag for flag, value in flags.items() if value]:
        what = f"{run.path} is a training run"
        raise UsageError(f"report takes --{wrong[0]} with a folder of masks only; {what}.")
    refuse_foreign(run.page, "page of a run", [TITLE])
    write_text(run.page, life_page(run))
    print(run.page)
    return 0
