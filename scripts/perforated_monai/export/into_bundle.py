"""A run folder -> a plain network in a bundle: weights, spec, configs, formats, and the proof."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .._version import __version__
from ..bundle.staged import finish, remove_at_end, staged
from ..errors import UserError
from ..files import sha256, write_bytes, write_json, write_text
from ..growth.trained import Trained, load_trained, make_spec
from ..inference import engines
from ..inference.formats import FIXED_SIZE, PACKAGES, Source, choose_formats
from ..inference.patches import load_patches
from ..networks import agreement as parity
from ..networks.build import build_network
from ..networks.fold import saving
from ..networks.surgery import count_parameters
from ..networks.weights import load_weights, tensor_bytes
from .parity import Reference, prove, refuse_difference, trained_outputs

_CONFIGS = ("train.json", "evaluate.json", "inference.json")
_SPEC = ("format", "base", "dendrites")
_PROOF = ("model_sha256", "max_abs_difference", "label_agreement")


def export_run(
    run: str | Path,
    bundle: str | Path,
    formats: Sequence[str] | None = (),
    volumes: str | Path | None = None,
    engine: str = "",
) -> dict[str, Any]:
    """Write the best network of a run into a bundle.

    Always: ``models/model.pt`` (flat state dict), ``models/network.json`` (spec, parameters,
    hashes, where it came from), ``models/parity.json``, ``network_def`` of
    ``configs/{train,evaluate,inference}.json``, ``eval_metrics`` of ``configs/metadata.json`` (and
    there ``segment::phantom_weights`` where training saw synthetic volumes), and the table between
    the markers ``<!-- parity -->`` and ``<!-- /parity -->`` of ``docs/README.md``. All files are
    moved in place together at the end; formats of former weights that are not written anew go then.

    Args:
        run: a run folder made by ``RunHandler``.
        bundle: the bundle to write into.
        formats: of ``ts``, ``pt2`` and ``onnx``; None takes all whose packages are installed.
        volumes: folder of volumes to compare on; phantoms when not given.
        engine: ``""``; ``"auto"`` measures every installed engine and notes the choice; ``"all"``
            or names of ``engines.ENGINES`` measure these.

    Returns:
        what ``network.json`` holds, with ``max_abs_difference`` of the exported network's outputs
        to the trained one's, over the compared patches.

    Raises:
        UserError: a run without a validation, a damaged checkpoint, another bundle, a missing
            package, outputs of ``model.pt`` that differ by more than 1e-5 of the largest output, or
            a format with less than 99.99 % equal labels. The bundle stays as it was.
    """
    bundle = Path(bundle)
    chosen = choose_formats(formats)
    finish(bundle)
    trained = load_trained(run)
    if trained.from_overlay:
        msg = f"{run} is of someone else's bundle, which stays as it is: add --out NEW_FOLDER."
        raise UserError(msg)
    configs = _read_configs(bundle)
    spec, network = make_spec(trained)
    shape = engines.input_shape(configs["metadata.json"])
    patches = load_patches(bundle, configs["inference.json"], shape, volumes)
    exclusive = parity.exclusive_labels(configs["inference.json"])
    expected = trained_outputs(trained, patches, configs["metadata.json"])
    difference = parity.compare(expected, parity.outputs(network, patches.batches), exclusive)
    refuse_difference(trained, difference)
    record = network_record(spec, network, trained, difference, shape)
    runs = {"trained network": trained.network, "model.pt": network}
    reference = Reference("trained network", runs, expected, patches, exclusive)
    with staged(bundle) as stage:
        _write_bundle(stage, network.state_dict(), record, configs, trained.best)
        with trained.settings():
            report = prove(source_of(stage, spec, network, shape), reference, spec, chosen, engine)
        write_proof(stage, bundle, report)
        _note_stale_files(stage)
    return record


def export_formats(
    bundle: str | Path,
    formats: Sequence[str] | None = None,
    volumes: str | Path | None = None,
    engine: str = "",
) -> dict[str, Any]:
    """Write the larger formats of an exported bundle, from its ``model.pt``.

    For bundles that come with ``model.pt`` and ``network.json`` only, as from a clone. Formats are
    compared with ``model.pt``; ``models/parity.json`` and the table of ``docs/README.md`` are
    written anew. Formats not asked for stay when they are there.

    Args:
        bundle: a bundle that ``export_run`` wrote.
        formats, volumes, engine: as for ``export_run``.

    Returns:
        what ``network.json`` holds.

    Raises:
        UserError: weights that are not those of ``network.json``, or as for ``export_run``.
    """
    bundle = Path(bundle)
    chosen = choose_formats(formats)
    finish(bundle)
    configs = _read_configs(bundle)
    record = _read_record(bundle)
    network = build_network(record)
    load_weights(network, bundle / "models" / "model.pt", record.get("model_sha256")).eval()
    shape = engines.input_shape(configs["metadata.json"])
    patches = load_patches(bundle, configs["inference.json"], shape, volumes)
    exclusive = parity.exclusive_labels(configs["inference.json"])
    expected = parity.outputs(network, patches.batches)
    reference = Reference("model.pt", {"model.pt": network}, expected, patches, exclusive)
    with staged(bundle) as stage:
        for name in ("configs/inference.json", "configs/metadata.json", "models/model.pt"):
            (stage / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(bundle / name, stage / name)
        spec = {key: record[key] for key in _SPEC}
        source = source_of(stage, spec, network, shape)
        report = prove(source, reference, spec, chosen, engine)
        report["trained"] = {k: record[k] for k in ("max_abs_difference", "label_agreement")}
        write_proof(stage, bundle, report)
    return record


# -- reading and writing ---------------------------------------------------------------------


def _read_configs(bundle: Path) -> dict[str, Any]:
    found = {}
    for name in (*_CONFIGS, "metadata.json"):
        path = bundle / "configs" / name
        if not path.is_file():
            msg = f"{bundle} is no bundle to export into: {path} is missing."
            raise UserError(msg)
        found[name] = json.loads(path.read_text())
    return found


def _read_record(bundle: Path) -> dict[str, Any]:
    path = bundle / "models" / "network.json"
    try:
        record = json.loads(path.read_text())
        missing = [key for key in (*_SPEC, *_PROOF) if key not in record]
    except (OSError, ValueError, TypeError) as error:
        msg = f"{path} cannot be read ({type(error).__name__}). Export a training run first."
        raise UserError(msg) from None
    if missing:
        msg = f"{path} must have {', '.join(missing)}. Export a training run first."
        raise UserError(msg)
    return record


def source_of(
    stage: Path, spec: dict[str, Any], network: nn.Module, shape: tuple[int, ...]
) -> Source:
    """What formats are written from."""
    return Source(stage, network, shape, spec["base"]["name"] in FIXED_SIZE)


def network_record(
    spec: dict[str, Any],
    network: nn.Module,
    trained: Trained,
    difference: dict[str, float],
    shape: tuple[int, ...],
) -> dict[str, Any]:
    """What ``network.json`` says, but for the hash of the weights."""
    plain_base = build_network({**spec, "dendrites": {}})
    fixed = spec["base"]["name"] in FIXED_SIZE
    unfolded = {**spec, "base": trained.base}
    return {
        **spec,
        **({"fixed_window": list(shape[1:])} if fixed else {}),
        **({"folded": saving(unfolded, spec, shape)} if unfolded["base"] != spec["base"] else {}),
        "written_by": f"perforated_monai {__version__}",
        "parameters": {"base": count_parameters(plain_base), "total": count_parameters(network)},
        "max_abs_difference": difference["max_abs_difference"],
        "label_agreement": difference["label_agreement"],
        "trained": trained.record(),
    }


def _write_bundle(
    stage: Path,
    state: dict[str, Tensor],
    record: dict[str, Any],
    configs: dict[str, Any],
    best: dict[str, Any],
) -> None:
    (stage / "models").mkdir()
    (stage / "configs").mkdir()
    data = tensor_bytes(state)
    record["model_sha256"] = sha256(data)
    spec = {key: record[key] for key in _SPEC}
    for name in _CONFIGS:
        configs[name]["network_def"] = definition_of(spec, configs[name].get("network_def"))
    configs["metadata.json"]["eval_metrics"] = eval_metrics(configs["metadata.json"], best)
    mark_phantoms(configs["metadata.json"], record["trained"])
    write_bytes(stage / "models" / "model.pt", data)
    write_json(stage / "models" / "network.json", record)
    for name, content in configs.items():
        write_json(stage / "configs" / name, content, indent=4)


def definition_of(spec: dict[str, Any], before: Any = None) -> dict[str, Any]:
    """``network_def`` of a config; the description of the one before stays."""
    described = before.get("_desc_") if isinstance(before, dict) else None
    return {
        **({"_desc_": described} if described else {}),
        "_target_": "perforated_monai.build_network",
        "spec": spec,
    }


def write_proof(stage: Path, bundle: Path, report: dict[str, Any]) -> None:
    """Write ``parity.json``, and its table into the page that ``bundle`` has."""
    write_json(stage / "models" / "parity.json", report)
    page = bundle / "docs" / "README.md"
    if page.is_file():
        (stage / "docs").mkdir(exist_ok=True)
        text = page.read_text(encoding="utf-8")
        table = parity.markdown(report)
        write_text(stage / "docs" / "README.md", parity.put_between_markers(text, table))


def _note_stale_files(stage: Path) -> None:
    """Formats of former weights beside new ones would be other networks."""
    names = [f"model.{n}" for n in PACKAGES]
    remove_at_end(stage, [f"models/{n}" for n in names if not (stage / "models" / n).exists()])


def mark_phantoms(metadata: dict[str, Any], trained: dict[str, Any]) -> None:
    """``segment::phantom_weights`` as it is; where the data are not known it stays."""
    if trained["generator"] is not None:
        metadata.setdefault("segment", {})["phantom_weights"] = True
    elif trained["manifest_sha256"] is not None:
        metadata.get("segment", {}).pop("phantom_weights", None)


def eval_metrics(metadata: dict[str, Any], best: dict[str, Any]) -> dict[str, float]:
    """``eval_metrics`` of ``metadata.json``: mean Dice and that of each structure."""
    pred = metadata["network_data_format"]["outputs"]["pred"]
    names, values = pred.get("channel_def", {}), best["dice_per_class"] or []
    first = int(pred["num_channels"]) - len(values)  # 1 where channel 0 is background
    found = {"mean_dice": round(best["dice"], 4)}
    for i, value in enumerate(values, start=max(first, 0)):
        found[f"dice_{names.get(str(i), i)}".replace(" ", "_")] = round(value, 4)
    return found
