"""The plain network equals the trained one: four ways, in every format, or the bundle stays."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.harness import BUNDLE, in_child, kill_self
from helpers.small_export import bundle_for
from helpers.tiny import UNET
from perforated_monai import UserError, build_network, load_weights
from perforated_monai.bundle import staged as staging
from perforated_monai.commands.main import main
from perforated_monai.dendrites.kinds import KINDS
from perforated_monai.dendrites.layer import DendriticLayer
from perforated_monai.dendrites.reduced_layer import ReducedDendriticLayer
from perforated_monai.export import into_bundle as export
from perforated_monai.export import parity as proof
from perforated_monai.export.into_bundle import export_formats, export_run
from perforated_monai.growth.trained import Trained, make_spec
from perforated_monai.inference.formats import (
    FIXED_SIZE,
    PACKAGES,
    Source,
    missing_packages,
    read_format,
    write_format,
)

# name: base entry, size of the input, layer types that grow
CONV = ["Conv2d", "Conv3d", "ConvTranspose2d", "ConvTranspose3d"]
IO = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3}
SWIN = {
    "name": "SwinUNETR",
    "in_channels": 1,
    "out_channels": 3,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 1, 1],
    "feature_size": 12,
    "window_size": 4,
}
SPARSE = {
    "name": "SparseUNet",
    **IO,
    "channels": [4, 8],
    "strides": [2],
    "branches": [4, 6],
    "width": 2,
    "sparsity": 0.5,
}
NETWORKS: dict[str, tuple[dict, int, list[str]]] = {
    "UNet": (UNET, 16, CONV),
    "UNet, blocks": (UNET, 16, ["Convolution"]),
    "UNet, 2D": (
        {"name": "UNet", **IO, "spatial_dims": 2, "channels": [4, 8], "strides": [2]},
        16,
        CONV,
    ),
    "BasicUNet": ({"name": "BasicUNet", **IO, "features": [4] * 6}, 32, CONV),
    "DynUNet": (
        {
            "name": "DynUNet",
            **IO,
            "kernel_size": [3] * 3,
            "strides": [1, 2, 2],
            "upsample_kernel_size": [2, 2],
            "filters": [4, 8, 8],
        },
        16,
        CONV,
    ),
    "SegResNet": (
        {"name": "SegResNet", **IO, "init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
        16,
        CONV,
    ),
    "MobileUNet": ({"name": "MobileUNet", **IO, "channels": [4, 8], "strides": [2]}, 16, CONV),
    "MobileUNet, blocks": (
        {"name": "MobileUNet", **IO, "channels": [4, 8], "strides": [2], "spatial_dims": 2},
        16,
        ["Convolution"],
    ),
    # Half of its branches are masked, and gone from the plain network.
    "SparseUNet": (SPARSE, 16, CONV),
    "SparseUNet, 2D": ({**SPARSE, "spatial_dims": 2}, 16, CONV),
    **{
        f"UNet, {kind}": (UNET | {"channels": [8, 16, 32], "strides": [2, 2]}, 16, CONV)
        for kind in list(KINDS)[1:]
    },
    "SwinUNETR": (SWIN, 64, [*CONV, "Linear"]),
    "SwinUNETR, 2D": ({**SWIN, "spatial_dims": 2}, 64, [*CONV, "Linear"]),
}
MANY = [
    pytest.param(name, sets, marks=pytest.mark.slow if sets > 2 or name == "SwinUNETR" else ())
    for name in NETWORKS
    for sets in (1, 2, 3, 4, 5)
]
# Free axes make an export slow: the default suite writes two networks, and the UNet into a bundle.
QUICK = ("UNet, 2D", "SwinUNETR, 2D")
QUICK_TS = ("MobileUNet", "SparseUNet")
WRITTEN = [
    pytest.param(name, format_, marks=() if quick else pytest.mark.slow)
    for name in NETWORKS
    for format_ in PACKAGES
    for quick in [name in QUICK or (name in QUICK_TS and format_ == "ts")]
]
IN_OTHER_PROCESS = """
import json, pathlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "perforatedai":
            raise ImportError("perforatedai is blocked in this process")

sys.meta_path.insert(0, Blocker())
import torch
import perforated_monai
torch.set_num_threads(1)
for folder in sorted(p for p in pathlib.Path(".").iterdir() if p.is_dir()):
    network = perforated_monai.build_network(json.loads((folder / "network.json").read_text()))
    perforated_monai.load_weights(network, folder / "model.pt").eval()
    x, expected = torch.load(folder / "example.pt", weights_only=True)
    with torch.no_grad():
        torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-5)
    print(folder.name)
assert "perforatedai" not in sys.modules
"""

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Layers without:UserWarning"),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the four-way test leaves for the process without perforatedai."""
    return tmp_path_factory.mktemp("saved")


@pytest.fixture
def grown(grow: Callable, volume: Callable) -> Callable[..., tuple[Trained, torch.Tensor]]:
    """``grown(name, sets)``: one of ``NETWORKS`` after growth by the tracker, and an input."""

    def make(name: str, sets: int) -> tuple[Trained, torch.Tensor]:
        if name.startswith("SwinUNETR"):
            pytest.importorskip("einops", reason="SwinUNETR needs einops (extra dev)")
        base, size, kinds = NETWORKS[name]
        torch.manual_seed(0)
        network = build_network({"format": 1, "base": base, "dendrites": {}})
        x = volume(dims=base.get("spatial_dims", 3), size=size)
        own = name.rpartition(", ")[2]
        kind = own if own in KINDS else "copy"
        tracker = grow(network, x, sets, layer_types=kinds, kind=kind)
        growth = {"config": tracker.config.to_dict(), "layers": tracker.layers}
        return Trained(Path(), network.eval(), base, {"growth": growth}), x

    return make


@torch.no_grad()
def outputs(network: Callable, x: torch.Tensor) -> torch.Tensor:
    return network(x)


@pytest.mark.parametrize("name, sets", MANY)
def test_four_ways(name: str, sets: int, grown, saved: Path) -> None:
    trained, x = grown(name, sets)
    expected = outputs(trained.network, x)
    spec, plain = make_spec(trained)
    assert {d["count"] for d in spec["dendrites"].values()} == {sets}
    for module_name, module in plain.named_modules():
        assert type(module).__module__.split(".")[0] != "perforatedai", module_name
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(outputs(plain, x), expected, rtol=0, atol=1e-5 * scale)
    folder = saved / f"{name} {sets}"
    folder.mkdir()
    torch.save(plain.state_dict(), folder / "model.pt")
    (folder / "network.json").write_text(json.dumps(spec))
    torch.save((x, outputs(plain, x)), folder / "example.pt")
    for layer in plain.modules():
        if isinstance(layer, (DendriticLayer, ReducedDendriticLayer)):
            layer.to_output.data.zero_()
    assert (outputs(plain, x) - expected).abs().max() > 0.001 * scale  # differs from the base


def test_where_perforatedai_cannot_be_imported(saved: Path, repo: Path) -> None:
    """Save -> load in another process gives the same outputs, for all networks above."""
    folders = sorted(p.name for p in saved.iterdir())
    if not folders:
        pytest.skip("reads what test_four_ways wrote: run them together")
    done = subprocess.run(
        [sys.executable, "-c", IN_OTHER_PROCESS],
        cwd=saved,
        env={**os.environ, "PYTHONPATH": str(repo / "scripts"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == folders


@pytest.mark.parametrize("name, format_", WRITTEN)
def test_formats(name: str, format_: str, grown, tmp_path: Path) -> None:
    """Written and read, at the size and batch of writing and, where free, at another."""
    if missing_packages(PACKAGES[format_]):
        pytest.skip(f"model.{format_} needs the extra export")
    trained, x = grown(name, 2)
    spec, plain = make_spec(trained)
    fixed = spec["base"]["name"] in FIXED_SIZE
    source = Source(bundle_for(tmp_path, spec, plain, x), plain, tuple(x.shape[1:]), fixed)
    run = read_format(format_, write_format(format_, source), source)
    # Larger, not smaller: BasicUNet takes no fewer voxels than its four poolings leave one of.
    other = x[:1] if fixed else torch.cat([x[:1]] * 3).repeat_interleave(2, 2)
    # ONNX Runtime's float32 error in window attention is some five times torch's own, measured
    # against float64 (1.6e-5 beside 3.2e-6), and instance norms of smooth volumes magnify both.
    relative = 1e-4 if fixed and format_ == "onnx" else 1e-5
    for example in (x, other):
        expected = outputs(plain, example)
        tolerance = relative * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(outputs(run, example), expected, rtol=0, atol=tolerance)
    if fixed:
        with pytest.raises(UserError, match=r"one window, 1×64×64.*roi_size"):
            run(x[..., :32])
    if format_ == "ts":
        from monai.data import load_net_with_metadata

        _, metadata, extra = load_net_with_metadata(
            str(tmp_path / "models/model.ts"), more_extra_files=["inference.json"]
        )
        assert metadata["network_data_format"]["inputs"]["image"]["num_channels"] == 1
        assert json.loads(extra["inference.json"])["network_def"]["spec"] == spec


@pytest.mark.parametrize("name", ["UNet", "UNet, blocks", "UNet, 2D", "UNet, depthwise"])
def test_compiles_without_graph_breaks(name: str, grown) -> None:
    trained, x = grown(name, 2)
    _, plain = make_spec(trained)
    compiled = torch.compile(plain, fullgraph=True, backend="eager")
    torch.testing.assert_close(outputs(compiled, x), outputs(plain, x), rtol=0, atol=1e-5)


# -- a run into a bundle ---------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The shipped configs with a small window, and a page with markers."""
    folder = tmp_path / "bundle"
    shutil.copytree(BUNDLE / "configs", folder / "configs")
    metadata = json.loads((folder / "configs/metadata.json").read_text())
    for side in metadata["network_data_format"].values():
        for entry in side.values():
            entry["spatial_shape"] = [16, 16, 16]
    (folder / "configs/metadata.json").write_text(json.dumps(metadata))
    (folder / "docs").mkdir()
    (folder / "docs/README.md").write_text("# T\n<!-- parity -->\n<!-- /parity -->\nlast line\n")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_export_writes_a_whole_bundle(
    grown_run: Path, bundle: Path, phantoms: Path, capsys
) -> None:
    arguments = ["export", str(grown_run), "--bundle", str(bundle), "--volumes", str(phantoms)]
    assert main([*arguments, "--engine", "torch,torch-bf16"]) == 0
    formats = [n for n in PACKAGES if not missing_packages(PACKAGES[n])]
    said = capsys.readouterr().out
    assert ", ".join(f"model.{n}" for n in formats) in said
    record = json.loads((bundle / "models/network.json").read_text())
    assert record["dendrites"] and record["parameters"]["total"] > record["parameters"]["base"]
    assert record["trained"]["structure_history"]
    spec = {k: record[k] for k in ("format", "base", "dendrites")}
    for name in ("train", "evaluate", "inference"):
        definition = json.loads((bundle / f"configs/{name}.json").read_text())["network_def"]
        assert definition["spec"] == spec
    load_weights(build_network(record), bundle / "models/model.pt", record["model_sha256"])
    parity = json.loads((bundle / "models/parity.json").read_text())
    assert "real volumes" in parity["volumes"]
    rows = {row["name"]: row for row in parity["rows"]}
    every = ["trained network", "model.pt", *[f"model.{n}" for n in formats]]
    assert list(rows) == [*every, "engine torch", "engine torch-bf16"]
    for name in every:
        assert rows[name]["label_agreement"] >= 0.9999 and rows[name]["ms_per_patch"]["median"] > 0
    for name in every[1:]:
        assert rows[name]["file_bytes"] == (bundle / "models" / name).stat().st_size
    assert parity["flops"]["total"] > parity["flops"]["base"] > 0
    page = (bundle / "docs/README.md").read_text()
    assert page.startswith("# T\n<!-- parity -->\n") and page.endswith(
        "<!-- /parity -->\nlast line\n"
    )
    assert "| model.pt |" in page
    assert not list(bundle.rglob(".export*"))


def test_a_plain_run_exports_bit_for_bit(plain_run: Path, bundle: Path) -> None:
    record = export_run(plain_run, bundle)
    assert record["dendrites"] == {} and record["max_abs_difference"] == 0
    best = torch.load(plain_run / "checkpoints/best.pt", weights_only=True)["network"]
    written = torch.load(bundle / "models/model.pt", weights_only=True)
    assert written.keys() == best.keys()
    assert all(torch.equal(written[k], best[k]) for k in best)


def test_formats_of_former_weights_go(plain_run: Path, bundle: Path) -> None:
    (bundle / "models").mkdir()
    for name in ("model.ts", "model.onnx", "notes.txt"):
        (bundle / "models" / name).write_text("old")
    export_run(plain_run, bundle)
    found = sorted(p.name for p in (bundle / "models").iterdir())
    assert found == ["model.pt", "network.json", "notes.txt", "parity.json"]


def test_formats_of_a_bundle_without_its_run(plain_run: Path, bundle: Path, capsys) -> None:
    """What a clone has: model.pt and network.json. The larger formats come from them."""
    export_run(plain_run, bundle)
    weights = (bundle / "models/model.pt").read_bytes()
    assert main(["export", "--bundle", str(bundle), "--formats", "ts"]) == 0
    assert "model.ts" in capsys.readouterr().out
    assert (bundle / "models/model.pt").read_bytes() == weights
    report = json.loads((bundle / "models/parity.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["model.pt", "model.ts"]
    assert report["reference"] == "model.pt"
    assert "against `model.pt`" in (bundle / "docs/README.md").read_text()
    assert not list(bundle.rglob(".export*"))
    (bundle / "models/model.pt").write_bytes(weights[:-1])
    before = content(bundle)
    with pytest.raises(UserError, match=r"model\.pt must have sha256"):
        export_formats(bundle, formats=["ts"])
    (bundle / "models/network.json").unlink()
    with pytest.raises(UserError, match=r"network\.json cannot be read"):
        export_formats(bundle, formats=["ts"])
    assert {n: d for n, d in before.items() if n != "models/network.json"} == content(bundle)


KILLS: dict[str, Callable[[], None]] = {
    "before anything is written": lambda: setattr(export, "_write_bundle", die),
    "between weights and formats": lambda: setattr(proof, "write_format", die),
    "while formats are compared": lambda: setattr(proof.agreement, "measure", die),
    "before the moves": lambda: setattr(export, "remove_at_end", die),
}


def die(*_: object, **__: object) -> None:
    kill_self()


@pytest.mark.parametrize("point", KILLS)
def test_a_killed_export_leaves_the_old_models(point: str, plain_run: Path, bundle: Path) -> None:
    (bundle / "models").mkdir()
    (bundle / "models/model.pt").write_bytes(b"old weights")
    before = content(bundle)

    def work() -> None:
        KILLS[point]()
        export_run(plain_run, bundle, formats=["ts"] if "formats" in point else [])

    assert in_child(work) == -signal.SIGKILL
    after = content(bundle)
    assert {n: d for n, d in after.items() if not n.startswith(".export-")} == before
    assert export_run(plain_run, bundle)["dendrites"] == {}
    assert not list(bundle.glob(".export*"))


def test_an_export_killed_among_its_moves_is_completed(plain_run: Path, bundle: Path) -> None:
    def work() -> None:
        moved = []
        replace = Path.replace

        def dies(self: Path, target: Path) -> Path:
            moved.append(target)
            if staging._READY in str(self) and len([m for m in moved if bundle in m.parents]) > 3:
                kill_self()
            return replace(self, target)

        Path.replace = dies
        export_run(plain_run, bundle)

    assert in_child(work) == -signal.SIGKILL
    staging.finish(bundle)
    record = json.loads((bundle / "models/network.json").read_text())
    load_weights(build_network(record), bundle / "models/model.pt", record["model_sha256"])
    assert not list(bundle.glob(".export*"))


def damage_weights(run: Path) -> None:
    file = run / "checkpoints/best.pt"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def other_network(run: Path) -> None:
    text = (run / "config.json").read_text()
    config = json.loads(text)
    config["config"]["base_network_def"]["channels"] = [4, 16]
    (run / "config.json").write_text(json.dumps(config))


BAD_RUNS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no run": (lambda run: (run / "config.json").unlink(), "is no run folder"),
    "no validation": (
        lambda run: (run / "checkpoints/best.pt").unlink(),
        "never reached a validation",
    ),
    "damaged weights": (damage_weights, "sha256"),
    "damaged config": (lambda run: (run / "config.json").write_text("{"), "config.json.*damaged"),
    "another network": (other_network, "not of the network its config.json names"),
}


@pytest.mark.parametrize("name", BAD_RUNS)
@pytest.mark.parametrize("kind", ["plain", "grown"])
def test_bad_runs_are_refused(kind, name, plain_run, grown_run, bundle, tmp_path, capsys) -> None:
    bad = shutil.copytree(grown_run if kind == "grown" else plain_run, tmp_path / "bad")
    BAD_RUNS[name][0](bad)
    before = content(bundle)
    with pytest.raises(UserError, match=BAD_RUNS[name][1]):
        export_run(bad, bundle)
    assert main(["export", str(bad), "--bundle", str(bundle)]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert content(bundle) == before


def test_a_bundle_of_other_channels_is_refused(plain_run: Path, bundle: Path) -> None:
    file = bundle / "configs/metadata.json"
    metadata = json.loads(file.read_text())
    metadata["network_data_format"]["outputs"]["pred"]["num_channels"] = 5
    file.write_text(json.dumps(metadata))
    before = content(bundle)
    with pytest.raises(UserError, match=r"gives 3 channels.*says 5"):
        export_run(plain_run, bundle)
    metadata["network_data_format"]["inputs"]["image"]["num_channels"] = 2
    file.write_text(json.dumps(metadata))
    with pytest.raises(UserError, match="does not take the input"):
        export_run(plain_run, bundle)
    assert {**content(bundle), "configs/metadata.json": b""} == {
        **before,
        "configs/metadata.json": b"",
    }


def test_a_format_that_disagrees_is_refused(plain_run: Path, bundle: Path, monkeypatch) -> None:
    monkeypatch.setattr(proof, "read_format", lambda *_: lambda x: torch.zeros(2, 3, 16, 16, 16))
    before = content(bundle)
    with pytest.raises(UserError, match=r"model\.ts gives other labels"):
        export_run(plain_run, bundle, formats=["ts"])
    assert content(bundle) == before


def test_a_missing_package_is_named_before_anything(
    grown_run: Path, bundle: Path, monkeypatch
) -> None:
    monkeypatch.setitem(PACKAGES, "onnx", ["a_package_nobody_has"])
    before = content(bundle)
    with pytest.raises(UserError, match=r"perforated-monai\[export\]"):
        export_run(grown_run, bundle, formats=["onnx"])
    assert content(bundle) == before
