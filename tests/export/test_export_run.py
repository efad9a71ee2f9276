"""A run into a bundle: written whole, or the bundle stays."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.harness import in_child, kill_self, small_window_bundle
from perforated_monai import UserError, build_network, load_weights
from perforated_monai.bundle import staged as staging
from perforated_monai.commands.main import main
from perforated_monai.export import into_bundle as export
from perforated_monai.export import parity as proof
from perforated_monai.export.into_bundle import export_formats, export_run
from perforated_monai.inference.formats import (
    PACKAGES,
    missing_packages,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Layers without:UserWarning"),
]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The shipped configs with a small window, and a page with markers."""
    folder = small_window_bundle(tmp_path / "bundle")
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
    assert not list(bundle.rglob(".*export*"))


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
    assert not list(bundle.rglob(".*export*"))
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
    assert {
        n: d for n, d in after.items() if not n.startswith(".perforated-monai-export-")
    } == before
    assert export_run(plain_run, bundle)["dendrites"] == {}
    assert not list(bundle.glob(".*export*"))


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
    assert not list(bundle.glob(".*export*"))


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
