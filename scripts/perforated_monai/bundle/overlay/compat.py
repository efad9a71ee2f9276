"""What of a bundle fails under the installed MONAI, and the lines that mend it.

A bundle names the ``monai_version`` it was written for. Arguments are compared with today's
signatures, and one synthetic batch goes through the loss, with labels of the type that the
preprocessing makes. Only MONAI's and torch's own parts with plain arguments are tried.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import monai
import torch
from monai.bundle import ConfigParser

from ...data.reading import read_or_refuse
from ..verify.allowed import component as component_of
from ..verify.allowed import judge_target
from .signature import unknown_arguments
from .train_config import TrainConfig, references

# Arguments that went by another name before, and were never refused because of **kwargs.
_RENAMED = {
    ("RandZoomd", "max"): "max_zoom",
    ("RandZoomd", "min"): "min_zoom",
    ("RandZoom", "max"): "max_zoom",
    ("RandZoom", "min"): "min_zoom",
}
_CAST = {"_target_": "CastToTyped", "keys": "label", "dtype": "$torch.float32"}
_TRIED = ("monai.networks.", "monai.losses.", "monai.transforms.")
_SIDE = 8  # voxels of the synthetic batch


@dataclass(frozen=True)
class Mend:
    """Overrides that mend one failure, and the sentence that says what fails."""

    lines: dict[str, Any]
    reason: str


def find_mends(config: TrainConfig) -> list[Mend]:
    """What fails, with its cure; empty where nothing is known to fail."""
    return [*_arguments(config), *_searched(config), *_label_type(config)]


def version_note(config: TrainConfig, mends: list[Mend]) -> str:
    """One sentence on the version that the bundle names; empty where it is the installed one."""
    metadata = config.file.parent / "metadata.json"
    content = read_or_refuse(metadata) if metadata.is_file() else {}
    named = str(content.get("monai_version", "")) if isinstance(content, dict) else ""
    here = monai.__version__
    if not named or named.split(".")[:2] == here.split(".")[:2]:
        return ""
    found = "what fails is mended below" if mends else "no argument or label type of it fails"
    return f"The bundle was written for monai {named}; with {here} {found}."


def _arguments(config: TrainConfig) -> Iterator[Mend]:
    """Arguments that a component of MONAI no longer takes."""
    for component in config.components():
        target = str(config.get(component.id)["_target_"])
        if judge_target(target) or not config.overridable(component.id):
            continue
        made = component_of(target)
        if not str(getattr(made, "__module__", "")).startswith(_TRIED):
            continue
        names = unknown_arguments(made, component.arguments)
        old = {n: _RENAMED[component.name, n] for n in component.arguments
               if (component.name, n) in _RENAMED}  # fmt: skip
        if not names and not old:
            continue
        kept = {k: v for k, v in config.get(component.id).items() if k not in names}
        renamed = {old.get(k, k): v for k, v in kept.items()}
        said = [f"takes no {n}" for n in names] + [f"calls {a} {b}" for a, b in old.items()]
        reason = f"{component.id}: {component.name} {', '.join(said)}"
        yield Mend({component.id: renamed}, reason)


def _searched(config: TrainConfig) -> Iterator[Mend]:
    """A DiNTS whose searched architecture is read onto a GPU, or not at all by today's torch."""
    for component in config.components():
        if component.name != "TopologyInstance":
            continue
        for identifier, text in config.texts():
            if not text.lstrip("$ ").startswith("torch.load(") or "weights_only" in text:
                continue
            path = next((i for i in references(text) if i != "device"), None)
            if path is None or not config.overridable(identifier):
                continue
            yield Mend(
                {
                    identifier: f"$torch.load(@{path}, map_location='cpu', weights_only=False)",
                    f"{component.id}::device": "cpu",
                },
                f"{identifier} reads arrays, which torch.load refuses unless weights_only=False is "
                "said, onto a GPU: read it only from a source that you trust",
            )


def _label_type(config: TrainConfig) -> Iterator[Mend]:
    """A loss that does not take labels of the type that the training's transforms make."""
    found = _label_steps(config)
    loss = next((c for c in config.components() if c.name.endswith("Loss")), None)
    if found is None or loss is None:
        return
    place, dtype = found
    target = str(config.get(loss.id)["_target_"])
    if dtype.is_floating_point or judge_target(target) or not _plain(loss.arguments):
        return
    error = _fails(config.get(loss.id), dtype)
    if error and not _fails(config.get(loss.id), torch.float32):
        yield Mend(
            {f"+{place}": [_CAST]},
            f"{loss.id}: {loss.name} fails with labels of {dtype}, which {place} makes ({error})",
        )


def _label_steps(config: TrainConfig) -> tuple[str, torch.dtype] | None:
    """ID of the list that loads the training's labels, and their type behind its last step."""
    for component in config.components():
        holder = component.id.rpartition("::")[0]
        if component.name != "LoadImaged" or "label" not in _keys(component.arguments):
            continue
        if "val" in component.id.partition("::")[0] or not config.overridable(component.id):
            continue
        dtype = _dtype(component.arguments.get("dtype")) or torch.float32
        steps = config.get(holder)
        for step in steps if isinstance(steps, list) else []:
            if not isinstance(step, dict) or "label" not in _keys(step):
                continue
            name = str(step.get("_target_", "")).rpartition(".")[2]
            if name == "ConvertToMultiChannelBasedOnBratsClassesd":
                dtype = torch.bool
            elif name in ("AsDiscreted", "ScaleIntensityd", "ScaleIntensityRanged"):
                dtype = torch.float32
            elif name in ("CastToTyped", "EnsureTyped"):
                dtype = _dtype(_of_label(step, "dtype")) or dtype
        return holder, dtype
    return None


def _of_label(step: dict[str, Any], argument: str) -> Any:
    value, keys = step.get(argument), _keys(step)
    return value[keys.index("label")] if isinstance(value, list) else value


def _keys(arguments: dict[str, Any]) -> list[str]:
    keys = arguments.get("keys")
    return [keys] if isinstance(keys, str) else list(keys) if isinstance(keys, list) else []


def _dtype(text: Any) -> torch.dtype | None:
    """A type by its last name: ``uint8``, ``$np.float32``, ``$torch.bool``."""
    name = str(text).rpartition(".")[2].rstrip("_")
    found = getattr(torch, name, None)
    return found if isinstance(found, torch.dtype) else None


def _plain(arguments: dict[str, Any]) -> bool:
    text = json.dumps(arguments, default=str)
    return "$" not in text and "@" not in text and "_target_" not in text


def _fails(loss: dict[str, Any], dtype: torch.dtype) -> str:
    """Why a loss does not take a synthetic batch with labels of a type; "" where it does."""
    function = ConfigParser({"loss": loss}).get_parsed_content("loss")
    channels = 2
    prediction = torch.rand(1, channels, _SIDE, _SIDE, _SIDE, requires_grad=True)
    label = torch.zeros(1, 1 if loss.get("to_onehot_y") else channels, _SIDE, _SIDE, _SIDE)
    label[..., : _SIDE // 2] = 1
    try:
        function(prediction, label.to(dtype)).mean().backward()
    except Exception as error:  # any failure is what is looked for
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return ""


def mended(config: TrainConfig, mends: list[Mend]) -> TrainConfig:
    """The config with its mends."""
    for mend in mends:
        config = config.with_overrides(mend.lines)
    return config
