"""A stranger's bundle, end to end: overlay, training, a new bundle, masks; its files stay."""

import json
import shutil
import signal
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow

from helpers.foreign_bundles import (
    brats,
    grown_sets,
    prostate,
    run_overlay,
    spleen,
    swin,
    train_with_overlay,
    tree_hash,
    write_cases,
)
from helpers.harness import (
    CPU,
    history,
    in_child,
    initialised,
    kill_self,
    refused,
    same_run,
    segment_by_monai,
)
from helpers.segment_bundle import segment
from perforated_monai import UserError, build_network, load_weights
from perforated_monai.bundle.check.run import check_bundle
from perforated_monai.bundle.overlay.make import Choices, make_overlay
from perforated_monai.bundle.overlay.parts import Given
from perforated_monai.bundle.pack import pack_bundle
from perforated_monai.commands.main import main
from perforated_monai.dendrites.layer import DendriticLayer
from perforated_monai.export import plain_network
from perforated_monai.export.new_bundle import export_to_new_bundle
from perforated_monai.growth.trained import load_trained

pytest.importorskip("perforatedai", reason="extra train is not installed: nothing can grow")

# name: bundle, labels from shell to core
STYLES: dict[str, tuple[Callable[..., Path], tuple[int, ...]]] = {
    "spleen": (spleen, (1,)),
    "brats": (brats, (2, 1, 4)),
    "prostate": (prostate, (1,)),
    "swin": (swin, (1,)),
}


@dataclass(frozen=True)
class Grown:
    """A bundle, its data, the run of its overlay, and its files before that."""

    bundle: Path
    data: Path
    run: Path
    before: dict[str, str]


def prepared(folder: Path, style: str) -> tuple[Path, Path]:
    make, values = STYLES[style]
    if style == "swin":
        pytest.importorskip("einops", reason="SwinUNETR needs einops (extra dev)")
    data = write_cases(folder / "data", channels=4 if style == "brats" else 1, values=values)
    return make(folder / style), data


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Grown]:
    """``grown(style)``: trained once a module."""
    made: dict[str, Grown] = {}

    def make(style: str) -> Grown:
        if style not in made:
            folder = tmp_path_factory.mktemp(style)
            bundle, data = prepared(folder, style)
            before = tree_hash(bundle)
            train_with_overlay(bundle, data, folder / "run")
            made[style] = Grown(bundle, data, folder / "run", before)
        return made[style]

    return make


@pytest.fixture(scope="module")
def exported(grown: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The new bundle of the spleen-style run."""
    source = grown("spleen")
    new = tmp_path_factory.mktemp("new") / "bundle"
    export_to_new_bundle(source.run, source.bundle, new)
    return new


def cases_of(source: Grown, folder: Path) -> Path:
    """What ``segment`` takes: a folder, or a list for several channels."""
    if source.bundle.name != "brats":
        return source.data / "imagesTr"
    images = [str(source.data / "imagesTr" / f"case_0_{c}.nii.gz") for c in range(4)]
    (folder / "cases.json").write_text(json.dumps([{"case": "case_0", "image": images}]))
    return folder / "cases.json"


@pytest.mark.parametrize(
    "style", ["spleen", "brats", "prostate", pytest.param("swin", marks=pytest.mark.slow)]
)
def test_from_overlay_to_masks(style: str, grown: Callable, tmp_path: Path) -> None:
    source = grown(style)
    assert grown_sets(source.run)
    assert tree_hash(source.bundle) == source.before
    record = export_to_new_bundle(source.run, source.bundle, tmp_path / "new")
    assert record["dendrites"]
    assert record["max_abs_difference"] < 1e-4
    summary = segment(cases_of(source, tmp_path), tmp_path / "masks", tmp_path / "new")
    assert {row["status"] for row in summary.rows} == {"done"}
    for row in summary.rows:
        mask = nib.load(tmp_path / "masks" / row["mask"])
        assert mask.shape == (24, 24, 24)
        assert np.allclose(mask.header.get_zooms(), (1, 1, 1.5))
    assert tree_hash(source.bundle) == source.before
    written = {p.relative_to(source.run).parts[0] for p in source.run.rglob("*") if p.is_file()}
    assert "models" in written  # the bundle's own CheckpointSaver went there
    if style == "prostate":
        assert "cache" in written


def test_the_network_is_replaced_wherever_it_is_defined(exported: Path, grown: Callable) -> None:
    record = json.loads((exported / "models" / "network.json").read_text())
    spec = {key: record[key] for key in ("format", "base", "dendrites")}
    before = grown("spleen").bundle / "configs"
    for name in ("train.json", "inference.json"):
        config = json.loads((exported / "configs" / name).read_text())
        assert config.pop("network_def")["spec"] == spec
        source = json.loads((before / name).read_text())
        del source["network_def"]
        assert config == source
    # An override of train.json that does not define a network stays as it is.
    assert (exported / "configs" / "evaluate.json").read_text() == (
        before / "evaluate.json"
    ).read_text()
    metadata = json.loads((exported / "configs" / "metadata.json").read_text())
    assert metadata["version"] == "0.1.1" and "0.1.1" in metadata["changelog"]
    best = load_trained(grown("spleen").run).best
    assert metadata["eval_metrics"]["mean_dice"] == round(best["dice"], 4)


def test_the_new_bundle_passes_the_check_and_packs(exported: Path, tmp_path: Path) -> None:
    assert [f.line() for f in check_bundle(exported)] == []
    packed = pack_bundle(exported, tmp_path / "new.zip")
    with zipfile.ZipFile(packed.file) as archive:
        names = {name.partition("/")[2] for name in archive.namelist()}
    assert {"models/model.pt", "configs/train.json", "perforated_monai/networks/build.py"} <= names


def test_the_new_bundle_is_the_trained_network(exported: Path, grown: Callable) -> None:
    trained = load_trained(grown("spleen").run)
    spec = json.loads((exported / "models" / "network.json").read_text())
    network = load_weights(build_network(spec), exported / "models" / "model.pt").eval()
    assert any(isinstance(m, DendriticLayer) for m in network.modules())
    x = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), trained.settings():
        torch.testing.assert_close(network(x), trained.network(x), rtol=0, atol=1e-5)


def test_monai_evaluates_and_segments_with_the_new_bundle(
    exported: Path, grown: Callable, tmp_path: Path
) -> None:
    """The zoo's own way: evaluate.json over train.json, and inference.json, weights strict."""
    data = grown("spleen").data
    initialised(exported, ["train.json", "evaluate.json"], data, tmp_path, device=CPU).run()
    segment_by_monai(exported, data / "imagesTr", tmp_path)
    assert (tmp_path / "metrics.csv").is_file()
    assert len(list(tmp_path.rglob("*_seg.nii.gz"))) == 5


def test_yaml_stays_yaml(grown: Callable, tmp_path: Path) -> None:
    source = grown("prostate")
    file = tmp_path / "copy" / "configs" / "inference.yaml"
    shutil.copytree(source.bundle, tmp_path / "copy")
    commented = "# What a radiologist should know.\n" + file.read_text()
    file.write_text(commented.replace("network_def:", "# The network.\nnetwork_def:"))
    export_to_new_bundle(source.run, tmp_path / "copy", tmp_path / "new")
    names = {p.name for p in (tmp_path / "new" / "configs").iterdir()}
    assert names == {p.name for p in (source.bundle / "configs").iterdir()}
    text = (tmp_path / "new" / "configs" / "inference.yaml").read_text()
    assert text.startswith("# What a radiologist should know.\n") and "# The network.\n" in text
    before, after = yaml.safe_load(commented), yaml.safe_load(text)
    assert before.pop("network_def")["_target_"] == "UNet"
    assert after.pop("network_def")["_target_"] == "perforated_monai.build_network"
    assert before == after


def test_the_definition_may_have_another_name(tmp_path: Path) -> None:
    """``net`` defines the network: it becomes a reference to ``network_def``."""
    bundle, data = prepared(tmp_path, "spleen")
    for name in ("train.json", "inference.json"):
        file = bundle / "configs" / name
        text = file.read_text().replace("network_def", "net")
        file.write_text(text)
    train_with_overlay(bundle, data, tmp_path / "run")
    export_to_new_bundle(tmp_path / "run", bundle, tmp_path / "new")
    config = json.loads((tmp_path / "new" / "configs" / "inference.json").read_text())
    assert config["net"] == "@network_def"
    assert config["network_def"]["spec"]["dendrites"]
    summary = segment(data / "imagesTr", tmp_path / "masks", tmp_path / "new")
    assert not summary.failed


def test_former_weights_do_not_come_back(grown: Callable, tmp_path: Path) -> None:
    source = grown("spleen")
    copy = tmp_path / "copy"
    shutil.copytree(source.bundle, copy)
    for name in ("model.ts", "model_trt.ts", "labels.json"):
        (copy / "models" / name).write_text(name)
    entries = [
        {"path": f"models/{name}", "url": "https://example.org/x", "hash_val": "", "hash_type": ""}
        for name in ("model.pt", "model.ts", "labels.json")
    ]
    shutil.copytree(source.run, copy / "runs" / "another")  # of no use to whoever gets the bundle
    (copy / "large_files.yml").write_text(yaml.safe_dump({"large_files": entries}))
    export_to_new_bundle(source.run, copy, tmp_path / "new")
    kept = yaml.safe_load((tmp_path / "new" / "large_files.yml").read_text())["large_files"]
    assert [e["path"] for e in kept] == ["models/labels.json"]
    found = {p.name for p in (tmp_path / "new" / "models").iterdir()}
    assert found == {"model.pt", "network.json", "parity.json", "labels.json"}
    assert not [p for p in (tmp_path / "new" / "runs").rglob("*") if p.is_file()]


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("bundle", "must be apart"),
        ("bundle/new", "must be apart"),
        ("run/new", "must be apart"),
        ("", "must be apart"),
        ("there", "exists: name a new folder"),
    ],
)
def test_an_export_never_writes_into_what_it_reads(
    out: str, message: str, grown: Callable, tmp_path: Path
) -> None:
    source = grown("spleen")
    shutil.copytree(source.bundle, tmp_path / "bundle")
    shutil.copytree(source.run, tmp_path / "run")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    before = tree_hash(tmp_path)
    with pytest.raises(UserError, match=message):
        export_to_new_bundle(tmp_path / "run", tmp_path / "bundle", tmp_path / out)
    assert tree_hash(tmp_path) == before


def test_the_commands_refuse_the_bundle_itself(
    grown: Callable, capsys: pytest.CaptureFixture
) -> None:
    source = grown("spleen")
    assert main(["export", str(source.run), "--bundle", str(source.bundle)]) == 1
    assert "add --out NEW_FOLDER" in capsys.readouterr().err
    assert main(["export", "--bundle", str(source.bundle), "--out", "x"]) == 2
    assert tree_hash(source.bundle) == source.before


def test_a_killed_export_leaves_nothing_under_its_name(
    grown: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = grown("spleen")
    new = tmp_path / "new"

    def killed() -> None:
        monkeypatch.setattr(plain_network, "prove", lambda *_: kill_self())
        export_to_new_bundle(source.run, source.bundle, new)

    assert in_child(killed) == -signal.SIGKILL
    assert not new.exists() and len(list(tmp_path.iterdir())) == 1
    export_to_new_bundle(source.run, source.bundle, new)
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


def test_missing_files_are_named(grown: Callable, tmp_path: Path) -> None:
    source = grown("spleen")
    for name in ("inference.json", "metadata.json"):
        copy = tmp_path / name
        shutil.copytree(source.bundle, copy)
        (copy / "configs" / name).unlink()
        with pytest.raises(UserError, match=name.split(".")[0]):
            export_to_new_bundle(source.run, copy, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# -- the run ---------------------------------------------------------------------------------


def test_it_starts_from_the_bundles_weights(tmp_path: Path) -> None:
    """Another file under models/model.pt gives another first score; a wrong one is refused."""
    bundle, data = prepared(tmp_path, "spleen")
    weights = bundle / "models" / "model.pt"
    one = {"train::trainer::max_epochs": 1}
    train_with_overlay(bundle, data, tmp_path / "a", **one)
    state = torch.load(weights, weights_only=True)
    torch.save({"model": {k: v * 2 for k, v in state.items()}}, weights)
    train_with_overlay(bundle, data, tmp_path / "b", **one)
    train_with_overlay(bundle, data, tmp_path / "c", Choices(from_scratch=True), **one)
    losses = [history(tmp_path / name)[0]["loss"] for name in "abc"]
    assert len(set(losses)) == 3
    torch.save({f"x.{k}": v for k, v in state.items()}, weights)
    with refused("model.pt does not fit this network"):
        train_with_overlay(bundle, data, tmp_path / "d", **one)


def test_a_network_that_export_could_not_rebuild_stops_at_the_start(tmp_path: Path) -> None:
    bundle, data = prepared(tmp_path, "spleen")
    config = json.loads((bundle / "configs" / "train.json").read_text())
    config["network"] = "$torch.nn.Sequential(@network_def, torch.nn.Conv3d(2, 2, 1)).to(@device)"
    (bundle / "configs" / "train.json").write_text(json.dumps(config))
    with refused("network_def does not make the network that trains"):
        train_with_overlay(bundle, data, tmp_path / "run", Choices(from_scratch=True))
    config["network"] = "$@network_def.to(@device)"
    config["network_def"]["bias"] = "$np.bool_(True)"
    (bundle / "configs" / "train.json").write_text(json.dumps(config))
    with refused("network_def must be made from plain values"):
        train_with_overlay(bundle, data, tmp_path / "run", Choices(from_scratch=True))


def test_another_metric_may_lead(tmp_path: Path) -> None:
    bundle, data = prepared(tmp_path, "brats")
    choices = Choices(given=Given(metric="val_mean_dice_wt"))
    made = train_with_overlay(bundle, data, tmp_path / "run", choices, **{"epochs": 2})
    evaluator = made.parser.get_parsed_content("validate::evaluator")
    last = [e for e in history(tmp_path / "run") if e["event"] == "epoch"][-1]
    assert last["dice"] == pytest.approx(evaluator.state.metrics["val_mean_dice_wt"])
    assert evaluator.state.key_metric_name == "val_mean_dice"


@pytest.mark.parametrize(
    ("interval", "epochs", "killed_in"),
    [
        (1, 5, 4),  # after growth
        (3, 9, 2),  # before the first validation
    ],
)
def test_a_killed_run_goes_on(interval: int, epochs: int, killed_in: int, tmp_path: Path) -> None:
    """Not bit for bit: the order of cases is the bundle's own. But from where it was."""
    data = write_cases(tmp_path / "data")
    bundle = spleen(tmp_path / "spleen", val_interval=interval)
    file, out = tmp_path / "dendrites.yaml", tmp_path / "run"
    file.write_text(make_overlay(bundle))
    before = tree_hash(bundle)
    last = {"train::trainer::max_epochs": epochs}

    def killed() -> None:
        start = ConfigWorkflow.run

        def run(self: ConfigWorkflow) -> object:
            trainer = self.parser.get_parsed_content("train::trainer")
            trainer.add_event_handler(Events.EPOCH_STARTED(once=killed_in), kill_self)
            return start(self)

        ConfigWorkflow.run = run  # type: ignore[method-assign]
        run_overlay(bundle, data, out, file, **last)

    assert in_child(killed) == -signal.SIGKILL
    first = history(out)
    assert len([e for e in first if e["event"] == "epoch"]) == killed_in - 1
    run_overlay(bundle, data, out, file, **last)
    assert history(out)[: len(first)] == first
    done = [e for e in history(out) if e["event"] == "epoch"]
    assert [e["epoch"] for e in done] == list(range(1, epochs + 1))
    assert [e["epoch"] for e in done if e["dice"] is not None] == list(
        range(interval, epochs + 1, interval)
    )
    assert grown_sets(out) == [1]
    assert tree_hash(bundle) == before


def test_the_same_overlay_gives_the_same_run(tmp_path: Path) -> None:
    bundle, data = prepared(tmp_path, "spleen")
    for name in ("a", "b"):
        train_with_overlay(bundle, data, tmp_path / name)
    same_run(tmp_path / "a", tmp_path / "b")


def test_a_bundle_that_is_written_to_is_named(tmp_path: Path) -> None:
    bundle, data = prepared(tmp_path, "spleen")
    config = json.loads((bundle / "configs" / "train.json").read_text())
    config["run"].append("$open(@bundle_root + '/note.txt', 'w').write('x')")
    (bundle / "configs" / "train.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError) as caught:
        train_with_overlay(bundle, data, tmp_path / "run", **{"train::trainer::max_epochs": 1})
    assert "changed 1 files of the bundle (note.txt)" in str(caught.value.__cause__)


def test_parts_are_those_that_monai_makes(tmp_path: Path) -> None:
    """RunHandler holds the very objects of the trainer."""
    bundle, data = prepared(tmp_path, "brats")
    file = tmp_path / "dendrites.yaml"
    file.write_text(make_overlay(bundle))
    config = ConfigParser.load_config_files([str(bundle / "configs" / "train.json"), str(file)])
    parser = ConfigParser(config)
    parser.update({"bundle_root": str(bundle), "dataset_dir": str(data)})
    parser["output_dir"] = str(tmp_path / "run")
    trainer = parser.get_parsed_content("train::trainer")
    handler = parser.get_parsed_content("train::handlers")[-2]
    assert handler.network is trainer.network
    assert handler.optimizer is trainer.optimizer
    assert handler.evaluator is parser.get_parsed_content("validate::evaluator")
    assert handler.lr_scheduler is parser.get_parsed_content("lr_scheduler")
