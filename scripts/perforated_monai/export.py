"""A run folder -> a plain network in a bundle: weights, spec, configs, formats, and the proof."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import __version__, engines, parity
from .errors import UserError
from .files import sha256, write_bytes, write_json, write_text
from .formats import (
    FIXED_SIZE,
    PACKAGES,
    Source,
    choose_formats,
    missing_packages,
    read_format,
    write_format,
)
from .measure import Run, count_flops
from .network import build_network, count_parameters
from .patches import BATCH, Patches, load_patches
from .plain import make_plain
from .staging import finish, remove_at_end, staged
from .trained import Trained, load_trained

LARGEST_DIFFERENCE = 1e-5
_CONFIGS = ("train.json", "evaluate.json", "inference.json")


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
    ``configs/{train,evaluate,inference}.json``, ``eval_metrics`` of ``configs/metadata.json``, and
    the table between the markers ``<!-- parity -->`` and ``<!-- /parity -->`` of
    ``docs/README.md``. All files are moved in place together at the end; formats of former weights
    that are not written anew go then.

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
    configs = _read_configs(bundle)
    trained = load_trained(run)
    spec, network = make_spec(trained)
    shape = engines.input_shape(configs["metadata.json"])
    patches = load_patches(bundle, configs["inference.json"], shape, volumes)
    exclusive = parity.exclusive_labels(configs["inference.json"])
    reference = _trained_outputs(trained, patches, configs["metadata.json"])
    found = parity.outputs(network, patches.batches)
    difference = parity.compare(reference, found, exclusive)
    _refuse_difference(trained, difference)
    record = _record(spec, network, trained, difference)
    fixed = spec["base"]["name"] in FIXED_SIZE
    with staged(bundle) as stage:
        _write_bundle(stage, bundle, network.state_dict(), record, configs, trained.best)
        source = Source(stage, network, shape, fixed)
        runs: dict[str, Run] = {"trained network": trained.network, "model.pt": network}
        for name in chosen:
            runs[f"model.{name}"] = read_format(name, write_format(name, source))
        runs |= _engine_runs(source, patches.batches, engine)
        with trained.settings():
            report = _parity(runs, reference, patches, exclusive, source, spec)
        _choose(report, runs, patches, exclusive, engine)
        write_json(stage / "models" / "parity.json", report)
        _write_page(stage, bundle, report)
        _note_stale_files(stage)
    return record


def make_spec(trained: Trained) -> tuple[dict[str, Any], nn.Module]:
    """Network spec of a trained network, and the plain network built from it, with its weights."""
    plain = copy.deepcopy(trained.network)
    counts = make_plain(plain, trained.activation) if trained.grown else {}
    dendrites = {
        name: {"count": n, "kind": "copy", "activation": trained.activation}
        for name, n in counts.items()
    }
    spec = {"format": 1, "base": trained.base, "dendrites": dendrites}
    network = build_network(spec)
    network.load_state_dict(plain.state_dict(), strict=True)
    return spec, network.eval()


# -- proof -----------------------------------------------------------------------------------


def _trained_outputs(trained: Trained, patches: Patches, metadata: dict[str, Any]) -> list[Tensor]:
    channels = int(metadata["network_data_format"]["outputs"]["pred"]["num_channels"])
    try:
        with trained.settings():
            found = parity.outputs(trained.network, patches.batches)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        msg = f"The network of {trained.run} does not take the input of metadata.json: {reason}"
        raise UserError(msg) from None
    if found[0].size(1) != channels:
        msg = (
            f"The network of {trained.run} gives {found[0].size(1)} channels; metadata.json of the "
            f"bundle says {channels}. Export it into its own bundle."
        )
        raise UserError(msg)
    return found


def _refuse_difference(trained: Trained, difference: dict[str, float]) -> None:
    if difference["relative"] > LARGEST_DIFFERENCE:
        msg = (
            f"The exported network's outputs differ from the trained network's by "
            f"{difference['max_abs_difference']:.2e} ({trained.run}). Nothing was written."
        )
        raise UserError(msg)


def _engine_runs(source: Source, batches: list[Tensor], engine: str) -> dict[str, Run]:
    if not engine:
        return {}
    every = engine in ("auto", "all")
    names = list(engines.ENGINES) if every else [n.strip() for n in engine.split(",")]
    if "openvino-int8" in names and not missing_packages(["openvino", "nncf"]):
        engines.save_int8(source, batches)
    runs = engines.load_engines(source, batches, names, required=not every)
    return {f"engine {name}": run for name, run in runs.items()}


def _parity(
    runs: dict[str, Run],
    reference: list[Tensor],
    patches: Patches,
    exclusive: bool,
    source: Source,
    spec: dict[str, Any],
) -> dict[str, Any]:
    """Content of ``parity.json``; refuses a format that disagrees."""
    example = patches.batches[0]
    rows = []
    costs = parity.measure(runs, example)
    for name, run in runs.items():
        compared = parity.compare(reference, parity.outputs(run, patches.batches), exclusive)
        if name.startswith("model.") and compared["label_agreement"] < parity.LEAST_AGREEMENT:
            msg = (
                f"{name} gives other labels than the trained network: "
                f"{compared['label_agreement']:.4%} agree on {patches.source}, 99.99 % are needed. "
                "The bundle was left as it was."
            )
            raise UserError(msg)
        file = source.folder / "models" / name
        rows.append(
            {
                "name": name,
                "file_bytes": file.stat().st_size if file.is_file() else None,
                "max_abs_difference": compared["max_abs_difference"],
                "label_agreement": compared["label_agreement"],
                **costs[name],
            }
        )
    base = build_network({**spec, "dendrites": {}}).eval()
    return {
        "format": parity.FORMAT,
        "written_by": f"perforated_monai {__version__}",
        "volumes": patches.source,
        "patch": list(source.shape),
        "batch": BATCH,
        "free_axes": "batch" if source.fixed_size else "batch and space",
        "machine": parity.machine(),
        "parameters": {"base": count_parameters(base), "total": count_parameters(source.network)},
        "flops": {
            "base": count_flops(base, example),
            "total": count_flops(source.network, example),
        },
        "rows": rows,
    }


def _choose(
    report: dict[str, Any], runs: dict[str, Run], patches: Patches, exclusive: bool, engine: str
) -> None:
    if engine != "auto":
        return
    tried = {n.removeprefix("engine "): r for n, r in runs.items() if n.startswith("engine ")}
    name, reason = engines.fastest(tried, patches.batches, exclusive, patches.source)
    report["engine"] = {"name": name, "reason": reason}


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


def _record(
    spec: dict[str, Any], network: nn.Module, trained: Trained, difference: dict[str, float]
) -> dict[str, Any]:
    plain_base = build_network({**spec, "dendrites": {}})
    return {
        **spec,
        "written_by": f"perforated_monai {__version__}",
        "parameters": {"base": count_parameters(plain_base), "total": count_parameters(network)},
        "max_abs_difference": difference["max_abs_difference"],
        "label_agreement": difference["label_agreement"],
        "trained": trained.record(),
    }


def _write_bundle(
    stage: Path,
    bundle: Path,
    state: dict[str, Tensor],
    record: dict[str, Any],
    configs: dict[str, Any],
    best: dict[str, Any],
) -> None:
    (stage / "models").mkdir()
    (stage / "configs").mkdir()
    buffer = io.BytesIO()
    torch.save({k: v.contiguous().clone() for k, v in state.items()}, buffer)
    data = buffer.getvalue()
    record["model_sha256"] = sha256(data)
    spec = {key: record[key] for key in ("format", "base", "dendrites")}
    for name in _CONFIGS:
        definition = configs[name].get("network_def")
        described = definition.get("_desc_") if isinstance(definition, dict) else None
        configs[name]["network_def"] = {
            **({"_desc_": described} if described else {}),
            "_target_": "perforated_monai.build_network",
            "spec": spec,
        }
    configs["metadata.json"]["eval_metrics"] = _metrics(configs["metadata.json"], best)
    write_bytes(stage / "models" / "model.pt", data)
    write_json(stage / "models" / "network.json", record)
    for name, content in configs.items():
        write_json(stage / "configs" / name, content, indent=4)


def _write_page(stage: Path, bundle: Path, report: dict[str, Any]) -> None:
    page = bundle / "docs" / "README.md"
    if page.is_file():
        (stage / "docs").mkdir()
        text = page.read_text(encoding="utf-8")
        table = parity.markdown(report)
        write_text(stage / "docs" / "README.md", parity.put_between_markers(text, table))


def _note_stale_files(stage: Path) -> None:
    """Formats of former weights beside new ones would be other networks."""
    names = [f"model.{n}" for n in PACKAGES]
    names += [engines.INT8_FILE, engines.INT8_FILE.replace(".xml", ".bin")]
    remove_at_end(stage, [f"models/{n}" for n in names if not (stage / "models" / n).exists()])


def _metrics(metadata: dict[str, Any], best: dict[str, Any]) -> dict[str, float]:
    metrics = {"mean_dice": round(best["dice"], 4)}
    names = metadata["network_data_format"]["outputs"]["pred"].get("channel_def", {})
    for i, value in enumerate(best["dice_per_class"] or [], start=1):
        metrics[f"dice_{names.get(str(i), i)}".replace(" ", "_")] = round(value, 4)
    return metrics
