"""An output folder and its scans -> one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from tqdm import tqdm

from ....errors import UserError
from ....files import refuse_foreign, sha256, write_text
from ..cases import Case, find_cases
from ..found import stem
from ..planes import COLOURS
from ..read import hash_files, read_nifti
from .histogram import make_histogram
from .picture import draw_planes
from .results import CaseResult, Results, read_results
from .review import Review, read_reviews

# Lines say the same as colours: in grey, and to colour-blind people.
_DASHES = ("", "7 4", "2 3", "10 3 2 3", "4 2", "12 4", "1 4")
_HERE = Path(__file__).parent


def check_page_path(page: str | Path) -> Path:
    """The path of a page, before hours of work.

    Raises:
        UserError: another ending than .html, a folder that is not there, or a file of somebody
            else under that name.
    """
    path = Path(page)
    if path.suffix.lower() != ".html":
        msg = f"The page must be a file that ends in .html; got {path}. Name one."
        raise UserError(msg)
    if path.is_dir() or not path.parent.is_dir():
        msg = f"The page cannot be written as {path}: make the folder {path.parent} first."
        raise UserError(msg)
    refuse_foreign(path, "page of masks", ["<title>Masks by "])
    return path


def write_page(
    folder: str | Path,
    page: str | Path,
    scans: str | Path = "",
    reviewed: str | Path = "",
    series: str = "",
    workers: int = 2,
) -> Results:
    """Write the page of an output folder of ``segment``; the same folder gives the same bytes.

    Args:
        folder: output folder.
        page: HTML file to write, atomically.
        scans: what was segmented; when not given, where it lay as seen from the output folder.
        reviewed: CSV of reviews to begin with, saved from such a page.
        series: DICOM series, as it was given to ``segment``.
        workers: cases that are drawn at a time.

    Raises:
        UserError: a folder that is no result, masks without scans, or reviews of another run.
    """
    folder, page = Path(folder), check_page_path(page)
    results = read_results(folder)
    masks = {case.name: case.mask_sha256 for case in results.cases}
    reviews = read_reviews(Path(reviewed), results.run, masks) if str(reviewed) else {}
    inputs = _inputs(folder, results, scans) if results.done else {}

    def draw(case: CaseResult) -> tuple[str, str]:
        return _drawn(case, inputs.get(case.name), folder, results, series)

    # Read again: keeping voxels while segmenting would double the memory in use.
    with ThreadPoolExecutor(workers) as pool:
        drawings = dict(
            tqdm(
                zip((c.name for c in results.done), pool.map(draw, results.done), strict=True),
                total=len(results.done),
                desc="page",
                unit="case",
                disable=not sys.stderr.isatty(),
            )
        )
    write_text(page, _rendered(results, drawings, reviews))
    return results


def _inputs(folder: Path, results: Results, scans: str | Path) -> dict[str, Case]:
    """Case -> its scan; at least one of them must be there."""
    record = results.record
    if str(scans):
        source = Path(scans)
    elif record.scans is not None:
        source = Path(os.path.normpath(folder / record.scans))
    else:
        msg = f"{folder} does not say where its scans lie. Name them: --scans DIR."
        raise UserError(msg)
    if not source.exists():
        msg = f"the scans of {folder} are not at {source}. Name where they lie: --scans DIR."
        raise UserError(msg)
    found = {
        case.name: case for case in find_cases(source, folder, record.anonymous, record.inputs)[0]
    }
    if not any(case.name in found for case in results.done):
        msg = (
            f"{source} holds no scan of {folder}: {results.done[0].name} and all others are "
            "missing. Name where they lie: --scans DIR."
        )
        raise UserError(msg)
    return found


def _drawn(
    case: CaseResult, scan: Case | None, folder: Path, results: Results, series: str
) -> tuple[str, str]:
    """JSON of the planes, or why there is none."""
    record = results.record
    if scan is None or scan.problem:
        return "", "its scan is not among the scans that were named"
    path = folder / scan.target
    path = path.with_name(f"{path.name}_{record.postfix}.nii.gz")
    try:
        if hash_files(scan.files, record.anonymous) != case.input_sha256:
            return "", "its scan changed after it was segmented: segment again with --resume"
        if sha256(path.read_bytes()) != case.mask_sha256:
            return "", "its mask changed after it was written: segment again with --resume"
        mask: Any = nib.load(path)
        labels = np.asarray(mask.dataobj)
        if scan.dicom:
            from ...dicom import Asked, read_series

            asked = Asked(series=series, anonymous=record.anonymous, any_modality=True)
            slices = read_series(scan.files, asked)
            image, affine = slices.array, slices.affine
        else:
            volume = read_nifti(scan.files, record.channels, anonymous=record.anonymous)
            image, affine = volume.image[0].numpy(), volume.affine
    except FileNotFoundError:
        return "", "its mask is gone: segment again with --resume"
    except UserError as error:
        return "", str(error)
    except Exception as error:  # its text could name a folder
        return "", f"it cannot be read again ({type(error).__name__})"
    names = record.labels if labels.ndim == 3 else record.channel_names
    return draw_planes(image, labels, affine, list(names)), ""


def _rendered(
    results: Results, drawings: dict[str, tuple[str, str]], reviews: dict[str, Review]
) -> str:
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"ending": _ending, "json": _json, "signed": _signed}
    structures = [
        {
            "name": name,
            "colour": COLOURS[k % len(COLOURS)],
            "dash": _DASHES[k % len(_DASHES)],
        }
        for k, name in enumerate(results.structures)
    ]
    histograms = [
        make_histogram(name, volumes, results.training[k])
        for k, name in enumerate(results.structures)
        if (volumes := results.volumes(k))
    ]
    return environment.get_template("page.html.jinja").render(
        results=results,
        record=results.record,
        structures=structures,
        histograms=histograms,
        drawings=drawings,
        short=len({stem(case.name) for case in results.cases}) == len(results.cases),
        known=any(results.training),
        visible={name for name, (text, _) in drawings.items() if text},
        undrawn=[(name, why) for name, (_, why) in drawings.items() if why],
        marked=[case for case in results.done if case.notes],
        outliers=[case for case in results.done if case.outlier],
        data=_data(results, structures, drawings, reviews),
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
    )


def _data(
    results: Results,
    structures: list[dict[str, str]],
    drawings: dict[str, tuple[str, str]],
    reviews: dict[str, Review],
) -> dict[str, Any]:
    """What the script of the page needs; everything else stands in the page itself."""
    return {
        "run": results.run,
        "structures": structures,
        "cases": [
            {
                "name": case.name,
                "mask": case.mask_sha256,
                "done": case.done,
                "outlier": case.outlier,
                "missing": drawings[case.name][1] if case.done else "",
                "notes": case.notes if case.done else [case.reason],
                "verdict": reviews[case.name].verdict if case.name in reviews else "",
                "comment": reviews[case.name].comment if case.name in reviews else "",
            }
            for case in results.cases
        ],
    }


def _policy(style: str, script: str) -> str:
    """The page may run its own script and nothing else, and fetch nothing: a second lock."""
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (style, script)
    ]
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; "
        f"script-src 'sha256-{hashes[1]}'; base-uri 'none'; form-action 'none'"
    )


def _json(value: Any) -> Markup:
    """JSON that no text in it can end: ``<``, ``>`` and ``&`` are written as escapes."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return Markup(re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text))


def _ending(name: str) -> Markup:
    """A file's name with its ending set apart, which is alike in nearly all rows."""
    start = stem(name)
    ending = Markup('<span class="ending">{}</span>').format(name[len(start) :])
    return escape(start) + (ending if name != start else "")


def _signed(z: float) -> str:
    """A z-score with an arrow."""
    return f"{'▲' if z > 0 else '▼'} {abs(z):.1f}"
