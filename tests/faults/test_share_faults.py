"""Faults 43 to 50 and 55 to 57: exporting, packing, and bundles from others; one test a number."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.harness import in_child, kill_self
from helpers.share_bundle import (
    INFERENCE,
    METADATA,
    MODEL,
    SPEC,
    TOP,
    TRAIN,
    Content,
    edit,
    entry,
    put,
    put_weights,
    raw_zip,
    read_zip,
    rezip,
    small_bundle,
    without_package,
)
from perforated_monai import DendriteConfig, UserError, build_network
from perforated_monai.bundle.pack import pack_bundle
from perforated_monai.bundle.staged import staged
from perforated_monai.bundle.verify.verify import Verdict, verify
from perforated_monai.export.plain_network import refuse_difference
from perforated_monai.growth.tracker import Tracker
from perforated_monai.growth.trained import Trained, make_spec
from perforated_monai.inference.formats import Source, read_format, write_format
from perforated_monai.networks import agreement as parity
from perforated_monai.training.run_folder import RunFolder

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
BASE = SPEC["base"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    return pack_bundle(small_bundle(folder), folder / "small.zip").file


@pytest.fixture
def content(packed) -> Content:
    return without_package(read_zip(packed))


@pytest.fixture
def judge(tmp_path, monkeypatch) -> Callable[[Path], Verdict]:
    """``judge(zip)``: verify it, in a temporary folder that must be empty afterwards."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))

    def run(file: Path) -> Verdict:
        before = sorted(tmp_path.iterdir())
        try:
            return verify(file)
        finally:
            assert list((tmp_path / "temporary").iterdir()) == []
            assert sorted(tmp_path.iterdir()) == before  # nothing ran that made a file

    return run


@pytest.mark.fault(43)
@pytest.mark.parametrize(
    "member",
    ["../outside.txt", "/tmp/outside.txt", entry(f"{TOP}/docs/a.md", stat.S_IFLNK | 0o777)],
    ids=["slip", "absolute", "link"],
)
def test_members_that_lead_outside(member, content, judge, tmp_path) -> None:
    file = raw_zip(tmp_path / "spoiled.zip", content, (member, b"../outside.txt"))
    found = {f.rule: f.file for f in judge(file).findings}
    where = found.get("zip-names") or found["zip-kinds"]
    assert Path(member if isinstance(member, str) else member.filename).name in where


@pytest.mark.fault(44)
def test_a_bomb(content, judge, tmp_path) -> None:
    """300 kB that would unpack to 300 MB."""
    file = tmp_path / "bomb.zip"
    bomb = entry(f"{TOP}/docs/a.md", compress_type=zipfile.ZIP_DEFLATED)
    raw_zip(file, content, (bomb, bytes(300_000_000)))
    assert file.stat().st_size < 1_000_000
    (finding,) = judge(file).findings
    assert (finding.rule, finding.file) == ("zip-size", f"{TOP}/docs/a.md")


@pytest.mark.fault(45)
def test_a_download_that_was_cut_or_changed(packed, content, judge, tmp_path) -> None:
    data = packed.read_bytes()
    cut = tmp_path / "cut.zip"
    cut.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(UserError, match=r"cut\.zip must be a whole zip.*Fetch it again"):
        judge(cut)
    put(content, TRAIN, content[TRAIN].replace(b"0.001", b"0.002"))
    (finding,) = judge(rezip(content, tmp_path / "changed.zip", record=False)).findings
    assert (finding.rule, finding.file, finding.value) == ("record", TRAIN, "another sha256")


@pytest.mark.fault(46)
def test_metadata_without_a_key(content, judge, tmp_path) -> None:
    edit(content, METADATA, task=None)
    (finding,) = judge(rezip(content, tmp_path / "spoiled.zip")).findings
    assert (finding.rule, finding.value) == ("metadata-schema", "no task")
    root = small_bundle(tmp_path)
    (root / METADATA).write_bytes(content[METADATA])
    with pytest.raises(UserError, match="no task"):
        pack_bundle(root, tmp_path / "packed.zip")


@pytest.mark.fault(47)
def test_weights_that_are_not_those_trained(
    tiny_unet: Callable, volume: Callable, grow: Callable, tmp_path: Path
) -> None:
    network, x = tiny_unet(), volume()
    grow(network, x, sets=1)
    config = DendriteConfig(patience=1, max_dendrites=1, tries=1)
    best = {"growth": {"config": config.to_dict()}}
    trained = Trained(RunFolder(tmp_path / "run"), network.eval(), BASE, best)
    _, plain = make_spec(trained)
    with trained.settings():
        expected = parity.outputs(network, [x])
    refuse_difference(trained, parity.compare(expected, parity.outputs(plain, [x])))
    for name, parameter in plain.named_parameters():
        if name.endswith("to_output"):
            parameter.data.zero_()  # as if one dendrite's output had been lost
            break
    with pytest.raises(UserError, match=r"differ from the trained network's.*Nothing was written"):
        refuse_difference(trained, parity.compare(expected, parity.outputs(plain, [x])))


@pytest.mark.fault(48)
def test_torchscript_of_a_network_with_dendrites(volume: Callable, tmp_path: Path) -> None:
    layer = "model.0.conv.unit0.conv"
    dendrites = {layer: {"count": 2, "kind": "copy", "activation": "sigmoid"}}
    spec = {**SPEC, "dendrites": dendrites}
    network = build_network(spec).eval()
    for parameter in network.get_submodule(layer).parameters():
        torch.nn.init.normal_(parameter)
    root = small_bundle(tmp_path)
    torch.save(network.state_dict(), root / MODEL)
    config = json.loads((root / INFERENCE).read_text())
    config["network_def"]["spec"] = spec
    (root / INFERENCE).write_text(json.dumps(config))
    source = Source(root, network, (1, 16, 16, 16), fixed_size=False)
    scripted = read_format("ts", write_format("ts", source), source)
    x = volume(batch=1)
    found = parity.compare(parity.outputs(network, [x]), parity.outputs(scripted, [x]))
    assert found["relative"] < 1e-5 and found["label_agreement"] == 1.0


@pytest.mark.fault(49)
def test_killed_half_way(tmp_path: Path) -> None:
    """An export changes nothing of its bundle; a pack leaves nothing under the name of its zip."""
    root = small_bundle(tmp_path)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def export() -> None:
        with staged(root) as folder:
            (folder / "models").mkdir()
            (folder / MODEL).write_bytes(b"new weights")
            kill_self()

    assert in_child(export) == -signal.SIGKILL
    shown = {p: p.read_bytes() for p in root.rglob("*") if p.is_file() and "export-" not in str(p)}
    assert shown == before

    def pack() -> None:
        signal.signal(signal.SIGALRM, lambda *_: kill_self())
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        while True:
            pack_bundle(root, tmp_path / "packed.zip").file.unlink()

    assert in_child(pack) == -signal.SIGKILL
    packed = tmp_path / "packed.zip"
    assert not packed.exists() or not verify(packed).broken


@pytest.mark.fault(50)
@pytest.mark.parametrize("release", ["", "9.9.9"], ids=["absent", "another"])
def test_perforatedai_is_absent_or_another(
    release: str, tiny_unet: Callable, forked: Callable, tmp_path: Path
) -> None:
    """Where dendrites would grow, the needed release is named; exported networks do not ask."""

    class Absent:
        def find_spec(self, name: str, *_: object) -> None:
            if name.split(".")[0] == "perforatedai":
                raise ModuleNotFoundError(f"No module named {name!r}")

    def open_tracker() -> None:
        if release:
            info = tmp_path / f"perforatedai-{release}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Name: perforatedai\nVersion: {release}\n")
            sys.path.insert(0, str(tmp_path))
        else:
            sys.meta_path.insert(0, Absent())
            for name in [n for n in sys.modules if n.split(".")[0] == "perforatedai"]:
                del sys.modules[name]
        build_network(SPEC)
        Tracker(tiny_unet(), DendriteConfig(), tmp_path / "tracker").open()

    code, said = forked(open_tracker)
    assert code == 1
    assert "needs perforatedai 3.2.9" in said and "pip install 'perforated-monai[train]'" in said
    assert release in said


@pytest.mark.fault(55)
def test_evil_pickle_in_the_weights(content, judge, tmp_path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    put_weights(content, {"a": Evil()})
    (finding,) = judge(rezip(content, tmp_path / "spoiled.zip")).findings
    assert (finding.rule, finding.file) == ("weights-file", MODEL)
    assert "system" in finding.value


@pytest.mark.fault(56)
@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("expressions", {"x": "$__import__('os').system('touch ran')"}),
        ("targets", {"x": {"_target_": "os.system", "command": "touch ran"}}),
    ],
)
def test_code_in_a_foreign_config(rule, change, content, judge, tmp_path) -> None:
    edit(content, INFERENCE, **change)
    verdict = judge(rezip(content, tmp_path / "spoiled.zip"))
    assert [(f.rule, f.file) for f in verdict.foreign] == [(rule, INFERENCE)]
    assert "system" in verdict.foreign[0].value


@pytest.mark.fault(57)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("class=StreamHandler", "class=eval"),
        ("args=(sys.stdout,)", "args=(__import__('os').system('touch ran'),)"),
    ],
)
def test_code_in_logging_conf(old, new, content, judge, tmp_path) -> None:
    file = "configs/logging.conf"
    put(content, file, content[file].decode().replace(old, new))
    (finding,) = judge(rezip(content, tmp_path / "spoiled.zip")).findings
    assert (finding.rule, finding.file) == ("logging", file)
