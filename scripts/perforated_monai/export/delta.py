"""A run with ``freeze_base`` -> its dendrites alone, hash-bound to the weights they grew on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from .._version import __version__
from ..bundle.staged import new_folder
from ..errors import UserError
from ..files import sha256, write_bytes, write_json
from ..growth.to_plain import delta_of
from ..growth.trained import load_trained, make_spec
from ..networks.build import build_network
from ..networks.delta import FILE
from ..networks.weights import tensor_bytes
from .new_bundle import refuse_overlap


def export_delta(run: str | Path, bundle: str | Path, out: str | Path) -> dict[str, Any]:
    """Write the dendrites of a run with ``freeze_base`` alone: ``dendrites.pt``, ``network.json``.

    ``build_network(network.json, base_weights=<bundle>/models/model.pt, delta=dendrites.pt)`` gives
    the network of the full export, bit for bit; that is tried before anything is written.

    Args:
        run: run folder.
        bundle: whose ``models/model.pt`` the run started from.
        out: the folder to make.

    Returns:
        what ``network.json`` holds; ``bytes`` has the sizes of delta and base weights.

    Raises:
        UserError: for a run without ``freeze_base`` or dendrites, or another bundle.
    """
    source, target = Path(bundle), Path(out)
    refuse_overlap(source, target, Path(run))
    weights = source / "models" / "model.pt"
    trained = load_trained(run)
    growth = trained.best["growth"]
    if growth is None or not growth.get("base_sha256"):
        msg = f"{run} trained the base network too: a delta needs dendrites::freeze_base true."
        raise UserError(msg)
    spec, network = make_spec(trained)
    if not spec["dendrites"]:
        msg = f"{run} kept no dendrites: there is nothing to put beside {weights}."
        raise UserError(msg)
    data = tensor_bytes(delta_of(trained.network))
    record = {
        **spec,
        "base_sha256": growth["base_sha256"],
        "delta_sha256": sha256(data),
        "written_by": f"perforated_monai {__version__}",
        "bytes": {"delta": len(data), "base": weights.stat().st_size if weights.is_file() else 0},
        "trained": trained.record(),
    }
    with new_folder(target) as stage:
        write_bytes(stage / FILE, data)
        _refuse_other(build_network(record, weights, stage / FILE), network)
        write_json(stage / "network.json", record)
    return record


def _refuse_other(built: nn.Module, trained: nn.Module) -> None:
    a, b = built.state_dict(), trained.state_dict()
    if a.keys() != b.keys() or any(not a[k].equal(b[k]) for k in b):
        msg = "The delta does not give the trained network bit for bit. Nothing was written."
        raise UserError(msg)
