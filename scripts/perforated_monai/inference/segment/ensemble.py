"""Several bundles as one: the mean of their networks' probabilities."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UserError
from ...files import sha256
from .load import load_bundle
from .pipeline import InferenceBundle

# What must be equal, and the words for it. Not the network, the weights, or the training volumes.
_EQUAL = {
    "channels": "number of channels",
    "inputs": "channels",
    "outputs": "number of outputs",
    "labels": "labels",
    "channel_names": "outputs",
    "mirror_axes": "segment.mirror_axes",
    "skip_empty_border": "segment.skip_empty_border",
    "modality": "modality",
    "amp": "evaluator.amp",
}
_STEPS = ("preprocessing", "inferer", "postprocessing")


class MeanOfNetworks(nn.Module):
    """Logits of the mean of several networks' probabilities, window by window.

    nnU-Net averages the softmax of the networks that it ensembles in the same way (Isensee et al.,
    Nature Methods 2021). The logarithm of the mean is what a softmax gives the mean back from, so
    that everything behind a network stays as it is.

    Args:
        networks: each ``(B, C, *space) -> (B, K, *space)``.
        exclusive: one label a voxel (softmax); otherwise every channel on its own (sigmoid).
    """

    def __init__(self, networks: Sequence[nn.Module], exclusive: bool) -> None:
        super().__init__()
        self.networks, self.exclusive = nn.ModuleList(networks), exclusive

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *space) -> (B, K, *space)`` float32 logits."""
        probabilities = (self._probabilities(network(x).float()) for network in self.networks)
        total = functools.reduce(torch.add, probabilities)
        single = torch.finfo(torch.float32)
        mean = (total / len(self.networks)).clamp(single.tiny, 1)  # the logarithm of 0 is no logit
        if self.exclusive:
            return torch.log(mean)
        return torch.log(mean) - torch.log((1 - mean).clamp_min(single.eps))

    def _probabilities(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits, 1) if self.exclusive else torch.sigmoid(logits)


@dataclass
class EnsembleBundle(InferenceBundle):
    """Bundles of equal labels and equal steps; everything but the network is the first one's."""

    members: list[InferenceBundle] = field(default_factory=list)

    @functools.cached_property
    def network(self) -> nn.Module:
        """The mean of the members' networks, on the CPU, in evaluation mode."""
        return MeanOfNetworks(self.parts, self.exclusive).eval()

    def first_width(self) -> int:
        """Of the widest member: one runs at a time."""
        return max(m.first_width() for m in self.members)

    @property
    def name(self) -> str:
        """The members' names."""
        return " + ".join(m.name for m in self.members)

    @property
    def parts(self) -> list[nn.Module]:
        """The members' networks."""
        return [m.network for m in self.members]

    def every_range(self) -> list[dict[str, Any] | None]:
        """A volume must be like the training volumes of each member."""
        return [m.ranges for m in self.members]


def load_bundles(folders: Sequence[str | Path], overlap: float | None = None) -> InferenceBundle:
    """One bundle, or an ensemble of several that differ in nothing but their networks.

    Args:
        folders: bundles; one alone is loaded as ``load_bundle`` does.
        overlap: as of ``load_bundle``.

    Raises:
        UserError: as ``load_bundle``; for no or a repeated folder, and for bundles whose labels,
            channels, steps around the network, or own code differ.
    """
    if not folders:
        raise UserError("segment needs a bundle. Name its folder.")
    places = [Path(folder).resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            msg = f"an ensemble needs different bundles; {folder} is named twice. Leave one out."
            raise UserError(msg)
    members = [load_bundle(folder, overlap) for folder in folders]
    if len(members) == 1:
        return members[0]
    for member in members[1:]:
        if different := _difference(members[0], member):
            msg = (
                f"bundles of an ensemble must agree in all but their networks; {member.folder} and "
                f"{members[0].folder} differ in {different}. Segment with each alone."
            )
            raise UserError(msg)
    first = {f.name: getattr(members[0], f.name) for f in fields(InferenceBundle)}
    return EnsembleBundle(
        **first
        | {
            "version": " + ".join(dict.fromkeys(m.version for m in members)),
            "weights_sha256": _joined(m.weights_sha256 for m in members),
            "config_sha256": _joined(m.config_sha256 for m in members),
            "phantom_weights": any(m.phantom_weights for m in members),
        },
        members=members,
    )


def _difference(one: InferenceBundle, other: InferenceBundle) -> str:
    for key, words in _EQUAL.items():
        if getattr(one, key) != getattr(other, key):
            return words
    for key in _STEPS:
        if one.settings_of(key) != other.settings_of(key):
            return f"{key} of their inference configs"
    # Python keeps one module of a name, so the first one's code would run for all.
    return "" if one.own_code() == other.own_code() else "their own code"


def _joined(hashes: Any) -> str:
    return sha256("".join(hashes).encode())
