"""A delta: dendrites apart from the weights they grew on, put back bit for bit, or refused."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from helpers import tiny
from helpers.foreign_bundles import prostate, train_with_overlay, tree_hash, write_cases
from perforated_monai import UserError, build_network, load_weights
from perforated_monai.bundle.overlay.make import Choices
from perforated_monai.commands.main import main
from perforated_monai.export.delta import export_delta
from perforated_monai.export.new_bundle import export_to_new_bundle
from perforated_monai.growth.frozen_base import differing
from perforated_monai.growth.to_plain import delta_of, make_plain
from perforated_monai.growth.trained import load_trained
from perforated_monai.networks.weights import tensor_bytes, weights_hash

pytest.importorskip("perforatedai", reason="extra train is not installed: nothing can grow")

UNET = {**tiny.UNET, "norm": "batch"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``bundle``, ``data`` and a ``run`` of it with ``freeze_base``."""
    folder = tmp_path_factory.mktemp("frozen")
    bundle = prostate(folder / "bundle")
    data = write_cases(folder / "data")
    before = tree_hash(bundle)
    choices = Choices(freeze_base=True, layers=("model.0.*", "model.2.*"))
    train_with_overlay(bundle, data, folder / "run", choices, **{"dendrites::patience": 4})
    assert tree_hash(bundle) == before
    return folder


@pytest.fixture(scope="module")
def delta(run: Path) -> Path:
    export_delta(run / "run", run / "bundle", run / "delta")
    return run / "delta"


def spec_of(delta: Path) -> dict[str, Any]:
    return json.loads((delta / "network.json").read_text())


def test_base_and_delta_give_the_full_export_bit_for_bit(run: Path, delta: Path) -> None:
    export_to_new_bundle(run / "run", run / "bundle", run / "new")
    weights = run / "bundle" / "models" / "model.pt"
    found = build_network(spec_of(delta), weights, delta / "dendrites.pt").eval()
    full = json.loads((run / "new" / "models" / "network.json").read_text())
    expected = load_weights(build_network(full), run / "new" / "models" / "model.pt").eval()
    assert found.state_dict().keys() == expected.state_dict().keys()
    assert not differing(expected.state_dict(), found.state_dict())
    x = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(found(x), expected(x))
        base = build_network({**full, "dendrites": {}})
        load_weights(base, weights).eval()
        assert not torch.allclose(found(x), base(x), atol=1e-3)  # dendrites did something


def test_a_config_may_say_it(run: Path, delta: Path) -> None:
    config = {
        "bundle_root": str(run / "bundle"),
        "network_def": {
            "_target_": "perforated_monai.build_network",
            "spec": spec_of(delta),
            "base_weights": "$@bundle_root + '/models/model.pt'",
            "delta": str(delta / "dendrites.pt"),
        },
    }
    found = ConfigParser(config).get_parsed_content("network_def")
    wanted = build_network(
        spec_of(delta), run / "bundle" / "models" / "model.pt", delta / "dendrites.pt"
    )
    assert not differing(wanted.state_dict(), found.state_dict())


def test_a_delta_holds_dendrites_alone(run: Path, delta: Path) -> None:
    state = torch.load(delta / "dendrites.pt", weights_only=True)
    spec = spec_of(delta)
    layers = {name.split(".dendrites.")[0] for name in state if ".dendrites." in name}
    assert layers == set(spec["dendrites"]) and layers
    assert all(name.startswith(("model.0.", "model.2.")) for name in layers)
    trained = load_trained(run / "run")
    start = torch.load(run / "bundle" / "models" / "model.pt", weights_only=True)
    assert spec["base_sha256"] == weights_hash(start)
    assert spec["bytes"]["delta"] == (delta / "dendrites.pt").stat().st_size
    assert not set(state) & set(start)
    assert trained.best["growth"]["config"]["freeze_base"]


@pytest.mark.parametrize("layer_types", [["Conv3d", "ConvTranspose3d"], ["Convolution"]])
@pytest.mark.parametrize("sets", [1, 3])
def test_any_number_of_sets_comes_back(
    layer_types: list[str], sets: int, grow: Callable, volume: Callable, tmp_path: Path
) -> None:
    """Layers and blocks with normalisation, grown by the tracker with weights drawn at random."""
    torch.manual_seed(0)
    network = build_network({"format": 1, "base": UNET, "dendrites": {}})
    tracker = grow(network, volume(), sets, layer_types=layer_types)
    base = _main_tensors(network)
    tensors = delta_of(network)
    (tmp_path / "base.pt").write_bytes(tensor_bytes(base))
    (tmp_path / "dendrites.pt").write_bytes(tensor_bytes(tensors))
    counts = make_plain(network, tracker.config.activation)
    entry = {"kind": "copy", "activation": tracker.config.activation}
    spec = {
        "format": 1,
        "base": UNET,
        "dendrites": {name: {"count": n, **entry} for name, n in counts.items()},
        "base_sha256": weights_hash(base),
        "delta_sha256": _file_hash(tmp_path / "dendrites.pt"),
    }
    assert set(counts.values()) == {sets}
    found = build_network(spec, tmp_path / "base.pt", tmp_path / "dendrites.pt")
    assert not differing(network.state_dict(), found.state_dict())


def _main_tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """What the base network has, of a network that is still wrapped."""
    found = {}
    for name, tensor in network.state_dict().items():
        if ".dendrite" not in name and name != "tracker_string":
            found[name.replace(".main_module", "")] = tensor.clone()
    plain = build_network({"format": 1, "base": UNET, "dendrites": {}}).state_dict()
    return {name: found[name] for name in plain}


def _file_hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# -- what is refused -------------------------------------------------------------------------


def changed_weights(folder: Path, delta: Path) -> None:
    file = folder / "model.pt"
    state = torch.load(file, weights_only=True)
    next(iter(state.values())).view(-1)[0] += 1e-6
    torch.save(state, file)


def other_network(folder: Path, delta: Path) -> None:
    torch.save({"x": torch.zeros(1)}, folder / "model.pt")


def cut_delta(folder: Path, delta: Path) -> None:
    file = delta / "dendrites.pt"
    file.write_bytes(file.read_bytes()[:-100])


def no_delta(folder: Path, delta: Path) -> None:
    (delta / "dendrites.pt").unlink()


def no_hash(folder: Path, delta: Path) -> None:
    spec = spec_of(delta)
    del spec["base_sha256"]
    (delta / "network.json").write_text(json.dumps(spec))


def more_layers(folder: Path, delta: Path) -> None:
    spec = spec_of(delta)
    entry = next(iter(spec["dendrites"].values()))
    spec["dendrites"]["model.1.submodule.conv.unit0.conv"] = entry
    (delta / "network.json").write_text(json.dumps(spec))


def fewer_layers(folder: Path, delta: Path) -> None:
    spec = spec_of(delta)
    spec["dendrites"].popitem()
    (delta / "network.json").write_text(json.dumps(spec))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (changed_weights, r"model.pt is another base network .* base_sha256 must be"),
        (other_network, "model.pt does not fit this network"),
        (cut_delta, r"dendrites.pt is another file .* delta_sha256 must be"),
        (no_delta, "dendrites.pt cannot be read"),
        (no_hash, "The spec has no base_sha256"),
        (more_layers, "does not fit layer 'model.1.submodule.conv.unit0.conv'"),
        (fewer_layers, "holds tensors that its spec does not name"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    damage: Callable[[Path, Path], None], message: str, run: Path, delta: Path, tmp_path: Path
) -> None:
    shutil.copytree(delta, tmp_path / "delta")
    shutil.copy(run / "bundle" / "models" / "model.pt", tmp_path / "model.pt")
    damage(tmp_path, tmp_path / "delta")
    with pytest.raises(UserError, match=message):
        build_network(
            spec_of(tmp_path / "delta"),
            tmp_path / "model.pt",
            tmp_path / "delta" / "dendrites.pt",
        )


@pytest.mark.parametrize("missing", ["base_weights", "delta"])
def test_one_without_the_other_is_refused(missing: str, run: Path, delta: Path) -> None:
    parts = {
        "base_weights": run / "bundle" / "models" / "model.pt",
        "delta": delta / "dendrites.pt",
    }
    parts.pop(missing)
    with pytest.raises(UserError, match=f"{missing} is missing"):
        build_network(spec_of(delta), **parts)


def test_a_run_that_trained_the_base_has_no_delta(tmp_path: Path) -> None:
    bundle, data = prostate(tmp_path / "bundle"), write_cases(tmp_path / "data")
    train_with_overlay(bundle, data, tmp_path / "run", **{"train::trainer::max_epochs": 1})
    with pytest.raises(UserError, match=r"trained the base network too.*freeze_base true"):
        export_delta(tmp_path / "run", bundle, tmp_path / "delta")
    assert not (tmp_path / "delta").exists()


def test_another_bundle_is_refused_at_export(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "bundle", tmp_path / "bundle")
    changed_weights(tmp_path / "bundle" / "models", tmp_path)
    with pytest.raises(UserError, match="another base network"):
        export_delta(run / "run", tmp_path / "bundle", tmp_path / "delta")
    assert not (tmp_path / "delta").exists()


def test_the_command_says_the_size(run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "delta"
    words = ["export", str(run / "run"), "--bundle", str(run / "bundle"), "--delta", str(out)]
    words.append("--trust")  # its transforms are code of its own
    assert main(words) == 0
    sizes = spec_of(out)["bytes"]
    assert f"{sizes['delta'] / sizes['base']:.1%} of the base weights" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == ["dendrites.pt", "network.json"]
