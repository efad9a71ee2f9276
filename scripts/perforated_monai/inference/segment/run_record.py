"""``run.json`` of an output folder: what its masks were made with, for whoever looks at them later.

It names no absolute path. Where the scans lie is kept only when they lie beside the output folder,
and never for anonymous cases: further away the way there would name folders of the machine.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path, PurePath
from typing import Any

import monai
import nibabel as nib
import numpy as np
import torch

from ..._version import __version__
from ...data.reading import read
from ...errors import UserError
from ...files import write_json
from .segmenter import Segmenter
from .states import Options
from .volumes import TrainingVolumes, read_volumes

NAME = "run.json"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run of ``segment`` was made with.

    Attributes:
        date: day of the run, UTC.
        bundle: name, version, and sha256 of weights and configuration.
        settings: ``Segmenter.settings_hash``; rows of the table carry it too.
        versions: package -> version.
        labels: label value -> name.
        channel_names: channel -> name, for masks of several channels.
        channels: of a scan.
        inputs: channel of a scan -> name.
        postfix: of masks' file names.
        scans: the input as seen from the output folder; None where it lies elsewhere.
        training_volumes: as in the bundle's metadata.json.
    """

    date: str
    bundle: dict[str, str]
    engine: str
    device: str
    settings: str
    versions: dict[str, str]
    labels: dict[int, str]
    channel_names: dict[int, str]
    channels: int
    inputs: dict[int, str]
    postfix: str
    anonymous: bool
    scans: str | None
    training_volumes: dict[str, Any] = field(default_factory=dict)
    format: int = _FORMAT

    @property
    def volumes(self) -> dict[str, TrainingVolumes]:
        """Name of a structure -> its volumes in training; empty where the bundle has none."""
        return read_volumes(self.training_volumes)


def write_record(source: Path, output: Path, segmenter: Segmenter, options: Options) -> RunRecord:
    """Write ``run.json`` of a run that begins."""
    bundle = segmenter.bundle
    record = RunRecord(
        date=datetime.now(timezone.utc).date().isoformat(),
        bundle={
            "name": bundle.name,
            "version": bundle.version,
            "weights_sha256": bundle.weights_sha256,
            "config_sha256": bundle.config_sha256,
        },
        engine=str(segmenter.settings["engine"]),
        device=segmenter.device.type,
        settings=segmenter.settings_hash(options.series),
        versions={
            "perforated-monai": __version__,
            "torch": str(torch.__version__),
            "monai": str(monai.__version__),
            "nibabel": str(nib.__version__),
            "numpy": str(np.__version__),
        },
        labels=bundle.labels,
        channel_names=bundle.channel_names,
        channels=bundle.channels,
        inputs=bundle.inputs,
        postfix=bundle.postfix,
        anonymous=options.anonymous,
        scans=None if options.anonymous else _beside(source, output),
        training_volumes=bundle.training_volumes or {},
    )
    write_json(output / NAME, asdict(record))
    return record


def read_record(folder: Path) -> RunRecord:
    """The record of an output folder.

    Raises:
        UserError: a folder that is no result of ``segment``, or a record that cannot be read.
    """
    path = folder / NAME
    if not path.is_file():
        msg = f"{folder} is no output folder of segment: it has no {NAME}. Name one"
        if (folder / "cases.jsonl").is_file():
            msg += ", or segment again with --resume, which writes it and keeps the masks"
        raise UserError(f"{msg}.")
    try:
        content = read(path)
        if content["format"] != _FORMAT:
            msg = f"{path} must have format {_FORMAT}; it has {content['format']!r}. Update."
            raise UserError(msg)
        for key in ("labels", "channel_names", "inputs"):
            content[key] = {int(k): str(v) for k, v in content[key].items()}
        record = RunRecord(**content)
        _ = record.volumes
        return record
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{path} cannot be read ({type(error).__name__}). Segment again with --resume."
        raise UserError(msg) from None


def _beside(source: Path, output: Path) -> str | None:
    """Path from one to the other, where it leaves the output's own parent folder at no point."""
    try:
        path = PurePath(os.path.relpath(source.resolve(), output.resolve()))
    except ValueError:  # another drive
        return None
    return path.as_posix() if path.parts.count("..") <= 1 else None
