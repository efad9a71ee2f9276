"""Which engine auto takes: by network, device and windows, and by what is installed."""

import pytest
import torch
from torch import nn

from perforated_monai.inference import by_rule
from perforated_monai.inference.by_rule import candidates
from perforated_monai.inference.formats import Source, missing_packages
from perforated_monai.inference.traced import traced

PLAIN = nn.Sequential(nn.Conv3d(1, 4, 3), nn.Conv3d(4, 2, 1))
DEPTHWISE = nn.Sequential(nn.Conv3d(1, 4, 3), nn.Conv3d(4, 4, 3, groups=4))


@pytest.mark.parametrize(
    ("installed", "network", "expected"),
    [
        (("openvino", "onnxruntime"), PLAIN, ["openvino", "torch"]),
        (("openvino", "onnxruntime"), DEPTHWISE, ["openvino", "onnxruntime", "torch"]),
        (("onnxruntime",), DEPTHWISE, ["onnxruntime", "torch"]),
        (("onnxruntime",), PLAIN, ["torch"]),
        ((), DEPTHWISE, ["torch"]),
    ],
)
def test_the_rule(installed, network, expected, monkeypatch) -> None:
    monkeypatch.setattr(by_rule, "missing_for", lambda name: [] if name in installed else [name])
    assert candidates(network, "cpu", one_size=True) == expected
    assert candidates(network, "cpu", one_size=False) == ["torch"]
    for device in ("cuda", "mps", "xpu"):
        assert candidates(network, device, one_size=True) == ["torch"]


def test_a_trace_holds_the_weights_and_leaves_the_network_as_it_was(tmp_path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1))
    network[1].requires_grad_(False)
    source = Source(tmp_path, network, (1, 8, 8), False)
    trace, x = traced(source), torch.randn(3, 1, 9, 7)
    assert [p.requires_grad for p in network.parameters()] == [True, True, False, False]
    torch.testing.assert_close(trace(x), network(x).detach())


def test_a_network_converted_in_memory_takes_any_window(tmp_path) -> None:
    if missing := missing_packages(["onnx", "onnxscript", "onnxruntime"]):
        pytest.skip(f"onnxruntime needs {', '.join(missing)}")
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.PReLU()).eval()
    run = by_rule.onnx_in_memory(Source(tmp_path, network, (1, 8, 8, 8), False))
    for shape in ((1, 1, 8, 8, 8), (3, 1, 8, 8, 8), (2, 1, 6, 8, 10)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.testing.assert_close(run(x), network(x), rtol=0, atol=1e-4)
    assert not list(tmp_path.rglob("*"))
