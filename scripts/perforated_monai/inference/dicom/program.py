"""The program of the process that decodes: requests from stdin, volumes to stdout.

A request is a line of JSON, an answer another, and behind it the voxels. Native code may print and
may abort; neither reaches the process that asked.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

from ...errors import UserError
from .series import Asked, Series, decode_series
from .slices import EXTRA


def serve() -> None:
    """Answer until stdin ends."""
    _no_core_file()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        for module in ("itk", "pydicom"):
            importlib.import_module(module)
        _say(answers, {"ready": True})
    except ImportError:
        _say(answers, {"error": EXTRA})
        return
    for line in sys.stdin.buffer:
        _answer(json.loads(line), answers)


def _answer(request: dict[str, Any], answers: IO[bytes]) -> None:
    files = [Path(name) for name in request["files"]]
    asked = Asked(**{f.name: request[f.name] for f in fields(Asked) if f.name in request})
    try:
        if request.get("alone"):  # which file is it that ends the process?
            _decode_alone(files[0])
            _say(answers, {"ready": True})
            return
        series = decode_series(files, asked)
    except UserError as error:
        _say(answers, {"error": str(error)})
    except MemoryError:
        _say(answers, {"error": "it does not fit into memory. Crop it."})
    except Exception as error:  # its text may hold values of tags
        kind = type(error).__name__
        _say(answers, {"error": f"the series cannot be read ({kind}). Convert it to NIfTI."})
    else:
        _say(answers, _described(series))
        answers.write(series.array.data)
        answers.flush()


def _described(series: Series) -> dict[str, Any]:
    return {
        "shape": series.array.shape,
        "affine": series.affine.tolist(),
        "files": [str(path) for path in series.files],
        "notes": series.notes,
    }


def _decode_alone(path: Path) -> None:
    import itk

    itk.ProcessObject.SetGlobalWarningDisplay(False)
    with contextlib.suppress(Exception):
        itk.imread(str(path), itk.F)


def _say(answers: IO[bytes], value: dict[str, Any]) -> None:
    answers.write(json.dumps(value).encode() + b"\n")
    answers.flush()


def _no_core_file() -> None:
    """A core file would hold a patient's scan."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    serve()
