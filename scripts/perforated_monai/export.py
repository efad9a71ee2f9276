"""A run folder -> a plain network in a bundle: weights, spec, configs, and the proof of equality."""

from __future__ import annotations

import copy
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from . import __version__
from .checkpoint import load_hashed
from .config import DendriteConfig
from .errors import UserError
from .files import sha256, write_bytes, write_json
from .network import base_spec, build_network, count_parameters
from .plain import make_plain

LARGEST_DIFFERENCE = 1e-5
_CONFIGS = ("train.json", "evaluate.json", "inference.json")


def export_run(run: str | Path, bundle: str | Path) -> dict[str, Any]:
    """Write the best network of a run into a bundle.

    Writes ``models/model.pt`` (flat state dict), ``models/network.json`` (spec, parameters, hashes,
    where it came from), ``network_def`` of ``configs/{train,evaluate,inference}.json`` and
    ``eval_metrics`` of ``configs/metadata.json``. Every check comes before the first write.

    Args:
        run: a run folder made by ``RunHandler``.
        bundle: the bundle to write into.

    Returns:
        what ``network.json`` holds, with ``max_abs_difference`` of the exported network's outputs
        to the trained one's (0 where the run grew no dendrites: the network is the same object's
        copy).

    Raises:
        UserError: a run without a validation, a damaged checkpoint, another bundle, or outputs
            that differ by more than 1e-5 of the largest output.
    """
    run, bundle = Path(run), Path(bundle)
    config, best = _read_run(run)
    configs = _read_configs(bundle)
    definition = _definition(config)
    trained, grown = _trained_network(definition, best)
    plain = copy.deepcopy(trained)
    growth = best["growth"]
    activation = growth["config"]["activation"] if growth else "identity"
    counts = make_plain(plain, activation) if grown else {}
    plain.eval()
    spec = {
        "format": 1,
        "base": base_spec(definition),
        "dendrites": {
            name: {"count": n, "kind": "copy", "activation": activation}
            for name, n in counts.items()
        },
    }
    rebuilt = build_network(spec)
    rebuilt.load_state_dict(plain.state_dict(), strict=True)
    inputs = probe_inputs(_input_shape(configs["metadata.json"]))
    difference = compare(trained, rebuilt, inputs, grown, growth)
    if difference["relative"] > LARGEST_DIFFERENCE:
        msg = (
            f"The exported network's outputs differ from the trained network's by "
            f"{difference['max_abs_difference']:.2e} ({run}). Nothing was written."
        )
        raise UserError(msg)
    record = _record(spec, rebuilt, definition, best, run, difference)
    _write(bundle, rebuilt.state_dict(), record, configs, best)
    return record


# -- reading ---------------------------------------------------------------------------------


def _read_run(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    if not (run / "config.json").is_file():
        msg = f"{run} is no run folder: it has no config.json. Give the output_dir of a training."
        raise UserError(msg)
    if not (run / "checkpoints" / "best.pt").is_file():
        msg = f"{run} never reached a validation: it has no checkpoints/best.pt. Train on."
        raise UserError(msg)
    config = json.loads((run / "config.json").read_text())["config"]
    return config, load_hashed(run / "checkpoints" / "best.pt")


def _read_configs(bundle: Path) -> dict[str, Any]:
    found = {}
    for name in (*_CONFIGS, "metadata.json"):
        path = bundle / "configs" / name
        if not path.is_file():
            msg = f"{bundle} is no bundle to export into: {path} is missing."
            raise UserError(msg)
        found[name] = json.loads(path.read_text())
    return found


def _definition(config: dict[str, Any]) -> dict[str, Any]:
    key = "base_network_def" if "base_network_def" in config else "network_def"
    # instantiate=False gives MONAI's own item, with references inside it resolved.
    item = ConfigParser(config).get_parsed_content(key, instantiate=False)
    definition = item.get_config() if hasattr(item, "get_config") else item
    if not isinstance(definition, dict) or "_target_" not in definition:
        msg = f"config.json of the run holds no {key} with a _target_: cannot name the network."
        raise UserError(msg)
    return {k: v for k, v in definition.items() if k not in ("_desc_", "_mode_", "_requires_")}


def _trained_network(
    definition: dict[str, Any], best: dict[str, Any]
) -> tuple[nn.Module, bool]:
    """The network as it was trained (with the tracker's own layers where it grew), in eval mode."""
    network = build_network({"format": 1, "base": base_spec(definition), "dendrites": {}})
    growth = best["growth"]
    if growth is None:
        network.load_state_dict(best["network"], strict=True)
        return network.eval(), False
    from .tracker import Tracker

    with tempfile.TemporaryDirectory() as folder:
        tracker = Tracker(network, DendriteConfig.from_dict(growth["config"]), folder)
        if tracker.layers != growth["layers"]:
            msg = "The run grew other layers than its configuration names now: cannot rebuild it."
            raise UserError(msg)
        tracker.open()
        try:
            tracker.load_network(best["network"])
        finally:
            tracker.close()
    return network.eval(), True


# -- proof -----------------------------------------------------------------------------------


def probe_inputs(shape: tuple[int, ...], count: int = 3, seed: int = 0) -> list[Tensor]:
    """Smooth random volumes with mean 0 and standard deviation 1, ``(1, C, *space)`` each."""
    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for _ in range(count):
        noise = torch.randn((1, *shape), generator=generator)
        pool = nn.functional.avg_pool3d if len(shape) == 4 else nn.functional.avg_pool2d
        smooth = pool(noise, 5, stride=1, padding=2)
        mixed = smooth / smooth.std() + 0.3 * noise
        inputs.append((mixed - mixed.mean()) / mixed.std())
    return inputs


def compare(
    trained: nn.Module,
    exported: nn.Module,
    inputs: list[Tensor],
    grown: bool,
    growth: dict[str, Any] | None,
) -> dict[str, float]:
    """Largest output difference (absolute, and relative to the largest output) and label agreement.

    A grown network reads its activation from the library's settings, so it runs inside them.
    """
    from contextlib import nullcontext

    context: Any = nullcontext()
    if grown and growth is not None:
        from .tracker import forward_settings

        context = forward_settings(DendriteConfig.from_dict(growth["config"]))
    largest = scale = 0.0
    same = total = 0
    exported.eval()
    with torch.no_grad(), context:
        for x in inputs:
            a, b = _tensor(trained(x)), _tensor(exported(x))
            largest = max(largest, float((a - b).abs().max()))
            scale = max(scale, float(a.abs().max()))
            same += int((a.argmax(1) == b.argmax(1)).sum())
            total += a.argmax(1).numel()
    return {
        "max_abs_difference": largest,
        "relative": largest / max(scale, 1.0),
        "label_agreement": same / total,
    }


def _tensor(output: Any) -> Tensor:
    return output[0] if isinstance(output, (list, tuple)) else output


def _input_shape(metadata: dict[str, Any]) -> tuple[int, ...]:
    image = metadata["network_data_format"]["inputs"]["image"]
    return (int(image["num_channels"]), *[int(s) for s in image["spatial_shape"]])


# -- writing ---------------------------------------------------------------------------------


def _record(
    spec: dict[str, Any],
    network: nn.Module,
    definition: dict[str, Any],
    best: dict[str, Any],
    run: Path,
    difference: dict[str, float],
) -> dict[str, Any]:
    plain_base = build_network({**spec, "dendrites": {}})
    provenance = json.loads((run / "config.json").read_text())
    events = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    structure = [e for e in events if e["event"] in ("grow", "accept", "reject")]
    return {
        **spec,
        "written_by": f"perforated_monai {__version__}",
        "parameters": {"base": count_parameters(plain_base), "total": count_parameters(network)},
        "max_abs_difference": difference["max_abs_difference"],
        "label_agreement": difference["label_agreement"],
        "trained": {
            "best_epoch": best["epoch"],
            "epochs": sum(e["event"] == "epoch" for e in events),
            "validation_dice": best["dice"],
            "validation_dice_per_class": best["dice_per_class"],
            "structure_history": structure,
            "dendrites": best["growth"]["config"] if best["growth"] else None,
            "versions": provenance["versions"],
            "manifest_sha256": provenance["manifest_sha256"],
            "fold": provenance["config"].get("fold"),
            "seed": provenance["config"].get("seed"),
        },
    }


def _write(
    bundle: Path,
    state: dict[str, Tensor],
    record: dict[str, Any],
    configs: dict[str, Any],
    best: dict[str, Any],
) -> None:
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
    (bundle / "models").mkdir(exist_ok=True)
    write_bytes(bundle / "models" / "model.pt", data)
    write_json(bundle / "models" / "network.json", record)
    for name, content in configs.items():
        write_json(bundle / "configs" / name, content, indent=4)


def _metrics(metadata: dict[str, Any], best: dict[str, Any]) -> dict[str, float]:
    metrics = {"mean_dice": round(best["dice"], 4)}
    names = metadata["network_data_format"]["outputs"]["pred"].get("channel_def", {})
    for i, value in enumerate(best["dice_per_class"] or [], start=1):
        metrics[f"dice_{names.get(str(i), i)}".replace(" ", "_")] = round(value, 4)
    return metrics

