"""What the continuous integration of MONAI's model zoo asks of a bundle, offline."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
import torch
from monai.bundle import (
    ConfigParser,
    ConfigWorkflow,
    ckpt_export,
    onnx_export,
    verify_net_in_out,
)
from monai.data import load_net_with_metadata

from helpers.zoo import (
    BUNDLES,
    LARGEST_FILE,
    PHANTOM_KIND,
    ROOT,
    SCHEMA,
    check_metadata,
    each_bundle,
)
from perforated_monai import load_weights
from perforated_monai.data.phantoms import make_phantoms
from perforated_monai.data.prepare import write_manifest

WORKFLOWS = {
    "train": (["train.json"], "train"),
    "train and evaluate": (["train.json", "evaluate.json"], "train"),
    "inference": (["inference.json"], "infer"),
}

pytestmark = pytest.mark.filterwarnings(
    # monai 1.6.1 exports by torch.jit.script, which torch 2.13 deprecates (MONAI#8632).
    "ignore:.*torch.jit.*:DeprecationWarning"
)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> dict[str, dict[str, str]]:
    """Overrides a bundle needs to find ten labelled phantoms and their manifest."""
    found = {}
    for name, kind in PHANTOM_KIND.items():
        folder = tmp_path_factory.mktemp(name)
        data = make_phantoms(folder / "data", cases=10, kind=kind)
        write_manifest(data, folder / "manifest.json", "phantom")
        found[name] = {"dataset_dir": str(data), "manifest": str(folder / "manifest.json")}
    return found


@pytest.fixture
def root_logger():
    """The root logger, which a bundle's logging.conf reconfigures, put back afterwards."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_bundles_are_the_expected_ones():
    assert [bundle.name for bundle in BUNDLES] == sorted(PHANTOM_KIND)


@each_bundle
@pytest.mark.parametrize(
    "file",
    ["LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt"],
)
def test_files_the_zoo_wants_are_there(bundle, file):
    # Listed, not looked up: on some file systems "license" would be found as well.
    folder = (bundle / file).parent
    assert folder.is_dir() and Path(file).name in [entry.name for entry in folder.iterdir()]


@each_bundle
def test_licence_is_the_one_of_the_repository(bundle):
    text = (bundle / "LICENSE").read_text()
    assert text == (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0" in text  # the words Hugging Face looks for


@each_bundle
def test_no_file_is_larger_than_the_zoo_takes(bundle):
    files = [path for path in bundle.rglob("*") if path.is_file()]
    assert files
    assert [path.name for path in files if path.stat().st_size > LARGEST_FILE] == []


@each_bundle
def test_metadata_follows_the_schema(bundle, tmp_path):
    check_metadata(bundle / "configs/metadata.json", tmp_path)


@each_bundle
def test_schema_refuses_metadata_with_any_required_key_missing(bundle, tmp_path):
    whole = _json(bundle / "configs/metadata.json")
    for key in _json(SCHEMA)["required"]:
        partial = tmp_path / "metadata.json"
        partial.write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
        with pytest.raises(ValueError, match=key):
            check_metadata(partial, tmp_path)


@each_bundle
def test_version_is_in_the_changelog(bundle):
    metadata = _json(bundle / "configs/metadata.json")
    assert metadata["version"] in metadata["changelog"]


@each_bundle
def test_versions_are_the_tested_ones(bundle):
    metadata = _json(bundle / "configs/metadata.json")
    named = {
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
        **metadata["required_packages_version"],
    }
    tested = _constraints()
    assert named == {package: tested[package] for package in named}


@each_bundle
def test_logging_conf_is_accepted_and_writes_to_stdout(bundle, tmp_path, root_logger):
    config = tmp_path / "empty.json"
    config.write_text("{}")
    logging_file = bundle / "configs/logging.conf"
    ConfigWorkflow(str(config), meta_file="none", logging_file=str(logging_file))
    assert root_logger.level == logging.INFO
    assert [handler.stream for handler in root_logger.handlers] == [sys.stdout]


@each_bundle
@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_workflow_has_every_property(bundle, workflow, datasets, tmp_path, root_logger):
    configs, kind = WORKFLOWS[workflow]
    checked = ConfigWorkflow(
        config_file=[str(bundle / "configs" / name) for name in configs],
        workflow_type=kind,
        # The check needs a parsed config, which only `initialize` makes, but no expression run.
        init_id="nothing to run",
        bundle_root=str(bundle),
        output_dir=str(tmp_path),
        device="$torch.device('cpu')",
        **datasets[bundle.name],
    )
    checked.initialize()
    assert checked.check_properties() == []


@each_bundle
@pytest.mark.parametrize("config", ["train.json", "inference.json"])
def test_network_has_the_shapes_of_the_metadata(bundle, config):
    verify_net_in_out(device="cpu", **_network_arguments(bundle, config))


@each_bundle
def test_torchscript_export_gives_the_network_and_its_configs(bundle, tmp_path):
    file = tmp_path / "model.ts"
    ckpt_export(
        filepath=str(file),
        ckpt_file=str(bundle / "models/model.pt"),
        **_network_arguments(bundle, "inference.json"),
    )
    scripted, metadata, extra = load_net_with_metadata(
        str(file), map_location=torch.device("cpu"), more_extra_files=["inference.json"]
    )
    volume = _volume(bundle)
    with torch.no_grad():
        torch.testing.assert_close(scripted(volume), _network(bundle)(volume), rtol=1e-5, atol=1e-5)
    whole = _json(bundle / "configs/metadata.json")
    assert metadata["network_data_format"] == whole["network_data_format"]
    assert json.loads(extra["inference.json"]) == _json(bundle / "configs/inference.json")


@pytest.mark.slow
@each_bundle
def test_onnx_export_gives_the_network(bundle, tmp_path, monkeypatch):
    # Read once, at import: from 1.31 on, onnxruntime reports its use to its maker otherwise.
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    file = tmp_path / "model.onnx"
    onnx_export(
        filepath=str(file),
        ckpt_file=str(bundle / "models/model.pt"),
        **_network_arguments(bundle, "inference.json"),
    )
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    volume = _volume(bundle)
    (output,) = session.run(None, {session.get_inputs()[0].name: volume.numpy()})
    with torch.no_grad():
        expected = _network(bundle)(volume)
    # In float32 the sums of two engines differ by some 1e-5 of the largest output.
    atol = 5e-5 * float(expected.abs().max())
    torch.testing.assert_close(torch.from_numpy(output), expected, rtol=0, atol=atol)


def _network_arguments(bundle: Path, config: str) -> dict[str, str]:
    return {
        "net_id": "network_def",
        "meta_file": str(bundle / "configs/metadata.json"),
        "config_file": str(bundle / "configs" / config),
        "bundle_root": str(bundle),
    }


def _network(bundle: Path) -> torch.nn.Module:
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs/inference.json"))
    network = parser.get_parsed_content("network_def")
    return load_weights(network, bundle / "models/model.pt").eval()


def _volume(bundle: Path) -> torch.Tensor:
    """A random input ``(1, channels, *spatial_shape)`` as the metadata describes it."""
    image = _json(bundle / "configs/metadata.json")["network_data_format"]["inputs"]["image"]
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, image["num_channels"], *image["spatial_shape"], generator=generator)


def _constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def _json(file: Path) -> dict:
    return json.loads(file.read_text())
