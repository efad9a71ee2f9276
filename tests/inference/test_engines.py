"""Engines give the network's outputs; the choice is the fastest that agrees, with its reason."""

import functools
import importlib
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from helpers import tiny
from perforated_monai import UserError, build_network
from perforated_monai.dendrites.convolutions import FUSIBLE
from perforated_monai.inference import engines
from perforated_monai.inference.formats import FIXED_SIZE, Source, choose_formats, missing_packages
from perforated_monai.inference.openvino_engine import without_telemetry
from perforated_monai.inference.patches import smooth_noise
from perforated_monai.networks.agreement import compare, outputs
from perforated_monai.networks.cost import Run

UNET = {**tiny.UNET, "spatial_dims": 2}
# Largest difference beside the largest output: exact up to sums in another order, or 16 bits.
TOLERANCE = {"torch-bf16": 0.05, "openvino-bf16": 0.05}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("bundle")
    torch.manual_seed(0)
    plain = build_network({"format": 1, "base": UNET, "dendrites": {}})
    names = [n for n, m in plain.named_modules() if isinstance(m, FUSIBLE)]
    dendrites = {n: {"count": 2, "kind": "copy", "activation": "sigmoid"} for n in names}
    network = build_network({"format": 1, "base": UNET, "dendrites": dendrites}).eval()
    for name, parameter in network.named_parameters():
        if name.endswith(("to_output", "between")):
            nn.init.normal_(parameter, std=0.3)
    (folder / "models").mkdir()
    return Source(folder, network, (1, 16, 16), UNET["name"] in FIXED_SIZE)


@pytest.fixture(scope="module")
def loaded(source: Source) -> Callable[[str], Run]:
    """``loaded(name)``: that engine, written and loaded once, or the test is skipped."""

    @functools.cache
    def load(name: str) -> Run:
        if missing := missing_packages(engines.ENGINES[name].packages):
            pytest.skip(f"engine {name} needs {', '.join(missing)}")
        return engines.load_engines(source, [name])[name]

    return load


@pytest.fixture
def batches() -> list[torch.Tensor]:
    patches = smooth_noise((1, 16, 16), 4)
    return [torch.cat(patches[:2]), torch.cat(patches[2:])]


@pytest.mark.parametrize("name", engines.ENGINES)
def test_every_engine_gives_the_outputs(name: str, loaded, source: Source, batches) -> None:
    run = loaded(name)
    reference = outputs(source.network, batches)
    found = compare(reference, outputs(run, batches))
    assert found["relative"] < TOLERANCE.get(name, 1e-5)
    assert [o.dtype for o in outputs(run, batches)] == [torch.float32] * 2
    one = batches[0][:1, :, :8]  # another batch and size
    torch.testing.assert_close(
        outputs(run, [one])[0],
        outputs(source.network, [one])[0],
        rtol=0,
        atol=10 * TOLERANCE.get(name, 1e-5),
    )


def test_telemetry_is_absent_while_openvino_is_imported_and_only_then(monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    before = dict(sys.modules)
    with without_telemetry(), without_telemetry(), pytest.raises(ImportError):
        importlib.import_module("openvino_telemetry")
    assert sys.modules == before
    imported_by_the_caller = ModuleType("openvino_telemetry")
    monkeypatch.setitem(sys.modules, "openvino_telemetry", imported_by_the_caller)
    with without_telemetry():
        assert importlib.import_module("openvino_telemetry") is imported_by_the_caller
    assert sys.modules["openvino_telemetry"] is imported_by_the_caller


def test_openvino_reports_nothing(source: Source, batches, tmp_path: Path, monkeypatch) -> None:
    if missing_packages(["openvino"]):
        pytest.skip("openvino is not installed")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    engines.load_engines(source, ["openvino"])
    assert "openvino_telemetry" not in sys.modules
    assert not list((tmp_path / "home").rglob("*"))


def test_the_fastest_that_agrees_is_taken(source: Source, batches) -> None:
    slow = engines.load_engines(source, ["torch"])["torch"]
    wrong = outputs(source.network, [torch.zeros_like(batches[0])])[0]
    runs = {
        "torch": lambda x: [slow(x) for _ in range(20)][-1],
        "onnxruntime": slow,
        "torch-bf16": lambda x: wrong,  # fastest of all, and wrong
    }
    name, reason = engines.fastest(runs, batches, True, "4 patches")
    assert name == "onnxruntime"
    assert reason.startswith("onnxruntime: ") and "torch-bf16 was faster" in reason
    assert "4 patches" in reason and "Not tried" in reason


def test_float32_torch_is_always_left(source: Source, batches) -> None:
    wrong = outputs(source.network, [torch.zeros_like(batches[0])])[0]
    runs = engines.load_engines(source, ["torch"]) | {"torch-bf16": lambda x: wrong}
    assert engines.fastest(runs, batches, True, "patches")[0] == "torch"


def test_unknown_and_missing_engines_are_named(source: Source, monkeypatch) -> None:
    with pytest.raises(UserError, match="got 'warp'"):
        engines.load_engines(source, ["warp"])
    everything = replace(engines.ENGINES["openvino"], packages=["a_package_nobody_has"])
    monkeypatch.setitem(engines.ENGINES, "openvino", everything)
    match = r"openvino needs a_package_nobody_has.*perforated-monai\[engines\]"
    with pytest.raises(UserError, match=match):
        engines.load_engines(source, ["openvino"], required=True)


def test_unknown_and_missing_formats_are_named(monkeypatch) -> None:
    with pytest.raises(UserError, match="ts, pt2, onnx; got 'keras'"):
        choose_formats(["keras"])
    from perforated_monai.inference import formats

    monkeypatch.setitem(formats.PACKAGES, "onnx", ["onnx", "a_package_nobody_has"])
    with pytest.raises(UserError, match=r"a_package_nobody_has.*perforated-monai\[export\]"):
        choose_formats(["onnx"])
    assert choose_formats(None) == ["ts", "pt2"]
    assert "a_package_nobody_has" in formats.unavailable()[0]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_engines_serve_several_threads_at_a_time(name: str, loaded, source: Source) -> None:
    patches = smooth_noise((1, 16, 16), 12)
    run = loaded(name)
    before = torch.get_num_threads()

    def call(k: int) -> torch.Tensor:
        torch.set_num_threads(1 + k % 2)
        return run(patches[k])

    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(call, range(12)))
    finally:
        torch.set_num_threads(before)
    expected = outputs(source.network, patches)
    for k in range(12):
        torch.testing.assert_close(found[k], expected[k], rtol=0, atol=1e-4)
