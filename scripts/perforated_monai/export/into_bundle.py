"""A run folder -> a plain network in a bundle: weights, spec, configs, formats, and the proof."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..bundle.staged import finish, remove_at_end, staged
from ..data.reading import read, read_mapping
from ..errors import UserError
from ..files import write_json
from ..growth.trained import load_trained, make_spec
from ..inference import engines
from ..inference.formats import PACKAGES, choose_formats
from ..inference.patches import load_patches
from ..networks import agreement
from ..networks.build import build_network
from ..networks.weights import load_weights
from .options import Proof, cut_to
from .parity import Reference, prove, source_of, write_proof
from .plain_network import SPEC, PlainNetwork, compare_with_trained

_CONFIGS = ("train.json", "evaluate.json", "inference.json")
_PROOF = ("model_sha256", "max_abs_difference", "label_agreement")


def export_run(
    run: str | Path,
    bundle: str | Path,
    *,
    formats: Sequence[str] | None = (),
    volumes: str | Path | None = None,
    engine: str = "",
    proof: Proof | None = None,
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
        proof: how many patches, and of which size.
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
    bundle, proof = Path(bundle), proof or Proof()
    chosen = choose_formats(formats)
    finish(bundle)
    trained = load_trained(run)
    if trained.from_overlay:
        msg = f"{run} is of someone else's bundle, which stays as it is: add --out NEW_FOLDER."
        raise UserError(msg)
    configs = _read_configs(bundle)
    spec, network = make_spec(trained)
    shape = engines.input_shape(configs["metadata.json"])
    seen = _seen(shape, proof)
    plain = compare_with_trained(
        *(trained, spec, network),
        patches=load_patches(bundle, configs["inference.json"], seen, volumes, proof.patches),
        shape=shape,
        inference=configs["inference.json"],
        metadata=configs["metadata.json"],
        proof=proof,
    )
    with staged(bundle) as stage:
        _write_bundle(stage, plain, configs)
        plain.prove(stage, bundle, chosen, engine, proof)
        _note_stale_files(stage)
    return plain.record


def export_formats(
    bundle: str | Path,
    *,
    formats: Sequence[str] | None = None,
    volumes: str | Path | None = None,
    engine: str = "",
    proof: Proof | None = None,
) -> dict[str, Any]:
    """Write the larger formats of an exported bundle, from its ``model.pt``.

    For bundles that come with ``model.pt`` and ``network.json`` only, as from a clone. Formats are
    compared with ``model.pt``; ``models/parity.json`` and the table of ``docs/README.md`` are
    written anew. Formats not asked for stay when they are there.

    Args:
        bundle: a bundle that ``export_run`` wrote.
        formats, volumes, engine, proof: as for ``export_run``.

    Returns:
        what ``network.json`` holds.

    Raises:
        UserError: weights that are not those of ``network.json``, or as for ``export_run``.
    """
    bundle, proof = Path(bundle), proof or Proof()
    chosen = choose_formats(formats)
    finish(bundle)
    configs = _read_configs(bundle)
    record = _read_record(bundle)
    network = build_network(record)
    load_weights(network, bundle / "models" / "model.pt", record.get("model_sha256")).eval()
    shape = engines.input_shape(configs["metadata.json"])
    seen = _seen(shape, proof)
    patches = load_patches(bundle, configs["inference.json"], seen, volumes, proof.patches)
    exclusive = agreement.exclusive_labels(configs["inference.json"])
    expected = agreement.outputs(network, patches.batches)
    reference = Reference("model.pt", {"model.pt": network}, expected, patches, exclusive)
    with staged(bundle) as stage:
        for name in ("configs/inference.json", "configs/metadata.json", "models/model.pt"):
            (stage / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(bundle / name, stage / name)
        spec = {key: record[key] for key in SPEC}
        source = source_of(stage, spec, network, shape)
        report = prove(source, reference, spec, chosen, engine, proof)
        report["trained"] = {k: record[k] for k in ("max_abs_difference", "label_agreement")}
        write_proof(stage, bundle, report)
    return record


def _seen(shape: tuple[int, ...], proof: Proof) -> tuple[int, ...]:
    """What is compared: the bundle's window, or a smaller one that was asked for."""
    return (shape[0], *cut_to(shape[1:], proof.size)) if proof.size else shape


# -- reading and writing ---------------------------------------------------------------------


def _read_configs(bundle: Path) -> dict[str, Any]:
    configs = {}
    for name in (*_CONFIGS, "metadata.json"):
        path = bundle / "configs" / name
        if not path.is_file():
            msg = f"{bundle} is no bundle to export into: {path} is missing."
            raise UserError(msg)
        configs[name] = read_mapping(path)
    return configs


def _read_record(bundle: Path) -> dict[str, Any]:
    path = bundle / "models" / "network.json"
    try:
        record = read(path)
        missing = [key for key in (*SPEC, *_PROOF) if key not in record]
    except (OSError, ValueError, TypeError) as error:
        msg = f"{path} cannot be read ({type(error).__name__}). Export a training run first."
        raise UserError(msg) from None
    if missing:
        msg = f"{path} must have {', '.join(missing)}. Export a training run first."
        raise UserError(msg)
    return record


def _write_bundle(stage: Path, plain: PlainNetwork, configs: dict[str, Any]) -> None:
    (stage / "configs").mkdir()
    plain.write(stage)
    for name in _CONFIGS:
        configs[name]["network_def"] = plain.definition(configs[name].get("network_def"))
    plain.update_metadata(configs["metadata.json"])
    for name, content in configs.items():
        write_json(stage / "configs" / name, content, indent=4)


def _note_stale_files(stage: Path) -> None:
    """Formats of former weights beside new ones would be other networks."""
    names = [f"model.{n}" for n in PACKAGES]
    remove_at_end(stage, [f"models/{n}" for n in names if not (stage / "models" / n).exists()])
