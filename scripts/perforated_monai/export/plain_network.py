"""The plain network of a run: shown to be the trained one, and what a bundle says about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .._version import __version__
from ..errors import UserError
from ..files import sha256, write_bytes, write_json
from ..growth.trained import Trained
from ..inference.formats import is_fixed
from ..inference.patches import Patches
from ..networks import agreement
from ..networks.build import build_network
from ..networks.fold import saving
from ..networks.surgery import count_parameters
from ..networks.weights import tensor_bytes
from ..training.records import Best
from .options import Proof
from .parity import Reference, prove, source_of, write_proof

LARGEST_DIFFERENCE = 1e-5
SPEC = ("format", "base", "dendrites")  # keys of the network's spec


@dataclass(frozen=True)
class PlainNetwork:
    """A run's network without training-time layers; made by ``compare_with_trained``.

    Attributes:
        record: what ``network.json`` says; ``write`` adds the hash of the weights.
        reference: the trained network's outputs, which every format must give too.
    """

    trained: Trained
    spec: dict[str, Any]
    network: nn.Module
    shape: tuple[int, ...]
    record: dict[str, Any]
    reference: Reference

    def write(self, stage: Path) -> None:
        """Write ``models/model.pt`` and ``models/network.json``."""
        data = tensor_bytes(self.network.state_dict())
        self.record["model_sha256"] = sha256(data)
        (stage / "models").mkdir(exist_ok=True)
        write_bytes(stage / "models" / "model.pt", data)
        write_json(stage / "models" / "network.json", self.record)

    def definition(self, before: Any = None) -> dict[str, Any]:
        """``network_def`` of a config; the description of the one before stays."""
        described = before.get("_desc_") if isinstance(before, dict) else None
        return {
            **({"_desc_": described} if described else {}),
            "_target_": "perforated_monai.build_network",
            "spec": {key: self.record[key] for key in SPEC},
        }

    def update_metadata(self, metadata: dict[str, Any]) -> None:
        """Put the validation's scores, and what kind of data it was trained on, into metadata."""
        metadata["eval_metrics"] = _eval_metrics(metadata, self.trained.best)
        data = self.record["trained"]
        if data["generator"] is not None:
            metadata.setdefault("segment", {})["phantom_weights"] = True
        elif data["manifest_sha256"] is not None:  # where the data are not known the mark stays
            metadata.get("segment", {}).pop("phantom_weights", None)

    def prove(
        self, stage: Path, bundle: Path, formats: list[str], engine: str, proof: Proof | None = None
    ) -> None:
        """Write formats and the parity report; its table goes into the page that ``bundle`` has.

        Raises:
            UserError: see ``parity.prove``.
        """
        source = source_of(stage, self.spec, self.network, self.shape)
        with self.trained.settings():
            report = prove(source, self.reference, self.spec, formats, engine, proof)
        write_proof(stage, bundle, report)


def compare_with_trained(
    trained: Trained,
    spec: dict[str, Any],
    network: nn.Module,
    *,
    patches: Patches,
    shape: tuple[int, ...],
    inference: Mapping[str, Any],
    metadata: Mapping[str, Any],
    proof: Proof | None = None,
) -> PlainNetwork:
    """Compare a plain network with the one it was made of.

    Args:
        trained: the trained network.
        spec: of the plain one.
        network: the plain one, in eval mode.
        patches: what both are run on.
        shape: ``(C, *space)`` of a patch.
        inference: content of ``inference.json``, which says how labels are made.
        metadata: content of ``metadata.json``.
        proof: who hears how far it is.

    Raises:
        UserError: outputs that differ by more than 1e-5 of the largest output, or an input or
            output of another shape than the bundle says.
    """
    exclusive = agreement.exclusive_labels(inference)
    proof = proof or Proof()
    progress = proof.progress("the trained network")
    expected = _trained_outputs(trained, patches, metadata, progress)
    outputs = agreement.outputs(network, patches.batches, proof.progress("the plain network"))
    difference = agreement.compare(expected, outputs, exclusive)
    refuse_difference(trained, difference)
    record = _network_record(trained, spec, network, difference, shape)
    runs = {"trained network": trained.network, "model.pt": network}
    reference = Reference("trained network", runs, expected, patches, exclusive)
    return PlainNetwork(trained, spec, network, shape, record, reference)


def refuse_difference(trained: Trained, difference: dict[str, float]) -> None:
    """Raise UserError when the plain network's outputs are not the trained network's."""
    if difference["relative"] > LARGEST_DIFFERENCE:
        msg = (
            f"The exported network's outputs differ from the trained network's by "
            f"{difference['max_abs_difference']:.2e} ({trained.run.path}). Nothing was written."
        )
        raise UserError(msg)


def _trained_outputs(
    trained: Trained, patches: Patches, metadata: Mapping[str, Any], progress: agreement.Progress
) -> list[Tensor]:
    heads = metadata["network_data_format"]["outputs"]
    try:
        with trained.settings():
            outputs = agreement.outputs(trained.network, patches.batches, progress)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        msg = (
            f"The network of {trained.run.path} does not take the input of metadata.json, as "
            f"patches of {tuple(patches.batches[0].shape[1:])}: {reason}"
        )
        raise UserError(msg) from None
    # Several heads are one prediction here, and say too little about channels in the zoo.
    channels = int(heads["pred"]["num_channels"]) if "pred" in heads else outputs[0].size(1)
    if outputs[0].size(1) != channels:
        msg = (
            f"The network of {trained.run.path} gives {outputs[0].size(1)} channels; metadata.json "
            f"of the bundle says {channels}. Export it into its own bundle."
        )
        raise UserError(msg)
    return outputs


def _network_record(
    trained: Trained,
    spec: dict[str, Any],
    network: nn.Module,
    difference: dict[str, float],
    shape: tuple[int, ...],
) -> dict[str, Any]:
    plain_base = build_network({**spec, "dendrites": {}})
    fixed = is_fixed(spec["base"]["name"])
    unfolded = {**spec, "base": trained.base}
    # use_checkpoint may differ too, which saves nothing of the network.
    was_folded = "sparsity" in trained.base and trained.base != spec["base"]
    return {
        **spec,
        **({"fixed_window": list(shape[1:])} if fixed else {}),
        **({"folded": saving(unfolded, spec, shape)} if was_folded else {}),
        "written_by": f"perforated_monai {__version__}",
        "parameters": {"base": count_parameters(plain_base), "total": count_parameters(network)},
        "max_abs_difference": difference["max_abs_difference"],
        "label_agreement": difference["label_agreement"],
        "trained": trained.record(),
    }


def _eval_metrics(metadata: dict[str, Any], best: Best) -> dict[str, float]:
    """``eval_metrics`` of ``metadata.json``: mean Dice and that of each structure."""
    heads = metadata["network_data_format"]["outputs"]
    metric = best.get("metric", "Dice")
    metrics = {"mean_dice" if metric == "Dice" else metric: round(best["dice"], 4)}
    if "pred" not in heads:
        return metrics
    pred = heads["pred"]
    names, values = pred.get("channel_def", {}), best["dice_per_class"] or []
    first = int(pred["num_channels"]) - len(values)  # 1 where channel 0 is background
    for i, value in enumerate(values, start=max(first, 0)):
        name = f"{metric.lower()}_{names.get(str(i), i)}".replace(" ", "_")
        metrics[name] = round(value, 4)
    return metrics
