"""``load_bundle``: the files of a bundle -> what ``segment`` needs of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...bundle.configs import find_config
from ...data.reading import read, reason_of
from ...errors import UserError
from ...files import sha256
from .components import parsed
from .limits import as_text, free_memory
from .pipeline import PRED, InferenceBundle
from .steps import image_keys, name_of, put_steps, without_macros


def load_bundle(folder: str | Path, overlap: float | None = None) -> InferenceBundle:
    """Read ``configs/inference.json`` and ``configs/metadata.json`` of a bundle.

    Args:
        folder: the bundle. Its configuration is code and runs, as under ``monai.bundle run``.
        overlap: of the sliding windows, 0 <= overlap < 1; the bundle's own when not given.

    Raises:
        UserError: for a missing or unusable file, key or weight.
    """
    try:
        bundle = _load(folder, overlap)
        bundle.windows(), bundle.pipeline(), bundle.first_width()
    except (UserError, OSError):
        raise
    except Exception as error:  # a config may hold anything anywhere, and MONAI calls it
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        msg = f"{folder}: its inference config cannot be used ({reason}). Correct it."
        raise UserError(msg) from error
    return bundle


def _load(folder: str | Path, overlap: float | None) -> InferenceBundle:
    given, folder = folder, Path(folder).absolute()
    if folder.is_file():
        msg = f"{given} is a file; a bundle is a folder. Unpack it, and give the folder."
        raise UserError(msg)
    file = find_config(folder, "inference")
    name = file.name if file is not None else "inference.json"
    config = without_macros(_read(folder, name))
    metadata = _read(folder, "metadata.json")
    weights = folder / "models" / "model.pt"
    if not weights.is_file():
        msg = f"{folder} has no models/model.pt: train and export a network, or fetch the weights."
        raise UserError(msg)
    size, free = weights.stat().st_size, free_memory()
    if free is not None and size > free:
        msg = f"{weights} has {size:,} bytes; {as_text(free)} of memory are free. Fetch it again."
        raise UserError(msg)
    settings = {k: config[k] for k in config if k not in ("handlers", "evaluator", "run")}
    postfix = _without_files(config, f"{folder}/configs/{name}")
    _prepare(config, folder, overlap)
    image, pred = _formats(metadata, folder)
    inferer = parsed(config, "inferer", folder)
    segment = metadata.get("segment", {})
    merged = metadata["network_data_format"].get("post_processed_outputs", {}).get(PRED)
    return InferenceBundle(
        folder=folder,
        version=str(metadata.get("version", "")),
        channels=int(image["num_channels"]),
        outputs=int(pred["num_channels"]),
        labels=_labels(merged or pred, 1),
        channel_names=_labels(pred, 0),
        inferer=inferer,
        amp=bool(config.get("evaluator", {}).get("amp", False)),
        postfix=postfix,
        weights_sha256=sha256(weights.read_bytes()),
        config_sha256=sha256(json.dumps(settings, sort_keys=True).encode()),
        ranges=segment.get("training_ranges"),
        training_volumes=segment.get("training_volumes"),
        mirror_axes=tuple(segment.get("mirror_axes", ())),
        skip_empty_border=bool(segment.get("skip_empty_border", False)),
        phantom_weights=bool(segment.get("phantom_weights", False)),
        inputs={int(k): str(v) for k, v in image.get("channel_def", {}).items()},
        modality=str(image.get("modality", "")),
        _config=config,
    )


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / "configs" / name
    try:
        content = read(path)
    except OSError as error:
        msg = f"{folder} is no bundle: configs/{name} cannot be read ({error.strerror}). Name one."
        raise UserError(msg) from None
    except ValueError as error:
        msg = f"{path} cannot be read: {reason_of(error)}. Restore it."
        raise UserError(msg) from None
    if not isinstance(content, dict):
        msg = f"{path} must hold a mapping of keys; got {type(content).__name__}. Restore it."
        raise UserError(msg)
    for key in ("preprocessing", "postprocessing", "inferer", "network_def"):
        if name != "metadata.json" and not content.get(key):
            msg = f"{path} must have {key}. Take the file from the bundle's source, or export it."
            raise UserError(msg)
    return content


def _without_files(config: dict[str, Any], file: str) -> str:
    """Take LoadImaged and SaveImaged out of the configuration; the postfix of mask names."""
    first = put_steps(config, "preprocessing", file)
    if not first or name_of(first[0]) != "LoadImaged":
        msg = f"{file}: preprocessing must begin with LoadImaged. Correct it."
        raise UserError(msg)
    keys = image_keys(config, first[0])
    if len(keys) != 1:
        msg = (
            f"{file}: preprocessing reads {', '.join(keys)}; segment gives one image a case. Use "
            "`python -m monai.bundle run` for this bundle."
        )
        raise UserError(msg)
    # Volumes come with their channels in front: the image alone would get another axis.
    first[:] = [t for t in first[1:] if name_of(t) != "EnsureChannelFirstd"]
    steps = put_steps(config, "postprocessing", file)
    saving = [t for t in steps if name_of(t) == "SaveImaged"]
    steps[:] = [t for t in steps if t not in saving]
    postfix = saving[0].get("output_postfix", "trans") if saving else "seg"
    postfix = str(parsed({**config, "_postfix": postfix}, "_postfix"))
    if postfix != Path(postfix).name or not postfix.isprintable():
        msg = f"{file}: output_postfix must be part of a file name; got {postfix!r}. Correct it."
        raise UserError(msg)
    return postfix


def _prepare(config: dict[str, Any], folder: Path, overlap: float | None) -> None:
    config["bundle_root"] = str(folder)
    config["device"] = "$torch.device('cpu')"
    if overlap is not None:
        if not 0 <= overlap < 1:
            msg = f"overlap must be at least 0 and below 1; got {overlap}."
            raise UserError(msg)
        config["inferer"]["overlap"] = overlap


def _formats(metadata: dict[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        formats = metadata["network_data_format"]
        image = next(iter(formats["inputs"].values()))
        pred = next(iter(formats["outputs"].values()))
        int(image["num_channels"]), int(pred["num_channels"])
    except (KeyError, StopIteration, TypeError, ValueError) as error:
        msg = f"{folder}: metadata.json must give network_data_format with num_channels ({error})."
        raise UserError(msg) from None
    return image, pred


def _labels(pred: dict[str, Any], first: int) -> dict[int, str]:
    """Label value (from 1) or channel (from 0) -> name of the structure.

    Regions that postprocessing merges into one label map have their values, which are not the
    network's channels, under ``post_processed_outputs``.
    """
    named = {int(k): str(v) for k, v in pred.get("channel_def", {}).items()}
    last = max(int(pred["num_channels"]) - 1, *named, 0)
    return {k: named.get(k, f"label {k}") for k in range(first, last + 1)}
