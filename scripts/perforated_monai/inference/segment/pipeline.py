"""A bundle as ``segment`` uses it: ``inference.json`` without its file reading and writing."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer, SlidingWindowInferer
from monai.transforms import Activationsd, AsDiscreted, Compose, Invertd
from monai.utils import ensure_tuple_rep
from torch import nn

from ...files import hash_of
from ...networks.agreement import exclusive_labels
from ...networks.makers import OWN
from ...networks.weights import load_weights
from .components import parsed
from .window import Windows

IMAGE, PRED = "image", "pred"


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
        return parsed(self._config, key, self.folder)


def _composed(transform: Any) -> Compose:
    return transform if isinstance(transform, Compose) else Compose(transform)


def _given(value: Any) -> bool:
    return value is not None and value is not False


def default_device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
