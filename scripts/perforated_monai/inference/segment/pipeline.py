"""A bundle as ``segment`` uses it: ``inference.json`` without its file reading and writing."""

from __future__ import annotations

import copy
import functools
import json
import re
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ComponentLocator, ConfigParser
from monai.inferers import Inferer, SlidingWindowInferer
from monai.transforms import Activationsd, AsDiscreted, Compose, Invertd
from monai.utils import ensure_tuple_rep
from torch import nn

from ...bundle.configs import find_config
from ...data.reading import read, reason_of
from ...errors import UserError
from ...files import hash_of, sha256
from ...networks.agreement import exclusive_labels
from ...networks.makers import OWN
from ...networks.weights import load_weights
from .bundle_code import bundle_code
from .limits import as_text, free_memory
from .steps import image_keys, name_of, put_steps, without_macros
from .window import Windows

IMAGE, PRED = "image", "pred"
# MONAI reads expressions with ast.parse, which in CPython 3.11 is not safe in several threads: a
# case failed at times with "AST constructor recursion depth mismatch". It can go with 3.11.
_parsing = threading.Lock()


@dataclass
class Pipeline:
    """The bundle's own transforms around the network.

    ``discretise`` are the leading transforms of its postprocessing that work voxel by voxel and
    end in labels, ``after`` those that follow. Without such labels ``discretise`` is None: the
    postprocessing needs the logits of the whole volume.
    """

    before: Compose
    discretise: Compose | None
    after: Compose
    sigmoid: bool

    @property
    def inverter(self) -> Invertd | None:
        """The transform that brings a prediction back to the input's grid."""
        return next((t for t in self.after.transforms if isinstance(t, Invertd)), None)


@dataclass
class InferenceBundle:
    """What a bundle says about segmentation; made by ``load_bundle``."""

    folder: Path
    version: str
    channels: int
    outputs: int
    labels: dict[int, str]
    channel_names: dict[int, str]
    inferer: Inferer
    amp: bool
    postfix: str
    weights_sha256: str
    config_sha256: str
    ranges: dict[str, Any] | None = None
    training_volumes: dict[str, Any] | None = None
    mirror_axes: tuple[int, ...] = ()
    skip_empty_border: bool = False
    phantom_weights: bool = False
    inputs: dict[int, str] = field(default_factory=dict)
    modality: str = ""
    _config: dict[str, Any] = field(default_factory=dict, repr=False)

    def pipeline(self) -> Pipeline:
        """A new set of transforms; they hold state while they invert: one set a thread."""
        before = _composed(self._parsed("preprocessing"))
        steps = list(_composed(self._parsed("postprocessing")).flatten().transforms)
        count = 0
        while count < len(steps) and isinstance(steps[count], (Activationsd, AsDiscreted)):
            count += 1
        leading = steps[:count]
        sigmoid = any(isinstance(t, Activationsd) and any(t.sigmoid) for t in leading)
        labels = [t for t in leading if isinstance(t, AsDiscreted)]
        if not any(any(t.argmax) or any(_given(v) for v in t.threshold) for t in labels):
            return Pipeline(before, None, Compose(steps), sigmoid)
        return Pipeline(before, Compose(leading), Compose(steps[count:]), sigmoid)

    @functools.cached_property
    def network(self) -> nn.Module:
        """The network with its weights, on the CPU, in evaluation mode; copy it to change it."""
        return load_weights(self._parsed("network_def"), self.weights, self.weights_sha256).eval()

    def first_width(self) -> int:
        """Output channels of the network's first convolution; 32 where it has none."""
        convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
        modules = self.network.modules()
        widths = (m.out_channels for m in modules if isinstance(m, convolutions))
        return int(next(widths, 32))

    @property
    def exclusive(self) -> bool:
        """Whether each voxel has one label; otherwise each channel is a region of its own."""
        return exclusive_labels(self._config)

    @property
    def name(self) -> str:
        """For people: that of its folder."""
        return self.folder.resolve().name

    @property
    def parts(self) -> list[nn.Module]:
        """The networks that run, one after another."""
        return [self.network]

    def every_range(self) -> list[dict[str, Any] | None]:
        """Training volumes that a volume must be like."""
        return [self.ranges]

    def settings_of(self, key: str) -> Any:
        """What the inference config says under a key, and under all keys that this refers to.

        Folders are left out: they differ from bundle to bundle and decide nothing.
        """
        names = [key]
        for name in names:  # it grows on the way
            text = json.dumps(self._config[name])
            found = (n for n in self._config if re.search(rf"@{re.escape(n)}\b", text))
            names += [n for n in found if n not in (*names, "bundle_root", "device")]
        return {name: self._config[name] for name in names}

    def own_code(self) -> list[str]:
        """Hashes of its own Python files."""
        return [hash_of(file) for file in sorted((self.folder / OWN).rglob("*.py"))]

    @property
    def weights(self) -> Path:
        """The weights that ``monai.bundle run`` loads."""
        return self.folder / "models" / "model.pt"

    def windows(self) -> Windows | None:
        """Sliding windows of the bundle's inferer; None for another kind of inferer."""
        inferer = self.inferer
        if type(inferer) is not SlidingWindowInferer or inferer.with_coord:
            return None
        return Windows(
            roi_size=ensure_tuple_rep(inferer.roi_size, 3),
            sw_batch_size=inferer.sw_batch_size,
            overlap=inferer.overlap,
            mode=str(getattr(inferer.mode, "value", inferer.mode)),
            sigma_scale=inferer.sigma_scale,
            padding_mode=str(getattr(inferer.padding_mode, "value", inferer.padding_mode)),
            cval=inferer.cval,
        )

    def _parsed(self, key: str) -> Any:
        """A new object of the configuration."""
        with bundle_code(self.folder), _parsing:
            return _parser(copy.deepcopy(self._config)).get_parsed_content(key)


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
    with bundle_code(folder), _parsing:
        inferer = _parser(copy.deepcopy(config)).get_parsed_content("inferer")
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


class _Components(ComponentLocator):
    """MONAI's table of its components, made again when more of its modules are loaded."""

    _modules = 0

    def get_component_module_name(self, name: str) -> list[str] | str | None:
        modules = sum(module.startswith(self.MOD_START) for module in list(sys.modules))
        if modules != self._modules:
            self._components_table, self._modules = None, modules
        return super().get_component_module_name(name)


_components = _Components()


def _parser(config: dict[str, Any]) -> ConfigParser:
    """MONAI's, with one table of components for all: to make it takes a sixth of a second."""
    parser = ConfigParser(config)
    parser.locator = _components
    return parser


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
    postfix = str(_parser({**config, "_postfix": postfix}).get_parsed_content("_postfix"))
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


def _composed(transform: Any) -> Compose:
    return transform if isinstance(transform, Compose) else Compose(transform)


def _given(value: Any) -> bool:
    return value is not None and value is not False


def default_device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
