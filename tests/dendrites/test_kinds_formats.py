"""Dendrites of every kind in one network: each format gives the outputs of the plain one."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.small_export import bundle_for
from perforated_monai import DendriteConfig, build_network
from perforated_monai.inference.formats import (
    PACKAGES,
    Source,
    missing_packages,
    read_format,
    write_format,
)
from perforated_monai.networks.cost import count_flops
from perforated_monai.networks.grown_spec import grown_entries
from perforated_monai.networks.surgery import count_parameters

BASE = {
    "name": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [8, 16, 32],
    "strides": [2, 2],
}
# Both convolutions and transposed ones; two sets, so that what is fused has to be put apart.
KINDS = {
    "model.0.conv": {"kind": "low_rank", "rank": 2},
    "model.1.submodule.0.conv": {"kind": "pointwise"},
    "model.1.submodule.1.submodule.conv": {"kind": "grouped", "groups": 4},
    "model.1.submodule.2.conv": {"kind": "depthwise"},
    "model.2.conv": {"kind": "pointwise"},
}
SPEC = {
    "format": 1,
    "base": BASE,
    "dendrites": {n: {"count": 2, "activation": "relu", **k} for n, k in KINDS.items()},
}
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


def network_of(spec: dict) -> nn.Module:
    """With dendrites that matter."""
    torch.manual_seed(0)
    made = build_network(spec).eval()
    with torch.no_grad():
        for name, p in made.named_parameters():
            if name.endswith(("to_output", "between")):
                p.normal_()
    return made


@torch.no_grad()
def outputs(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return run(x)


@pytest.mark.parametrize("format_", PACKAGES)
def test_formats(format_: str, volume: Callable[..., Tensor], tmp_path: Path) -> None:
    if missing_packages(PACKAGES[format_]):
        pytest.skip(f"model.{format_} needs the extra export")
    network, x = network_of(SPEC), volume()
    source = Source(bundle_for(tmp_path, SPEC, network, x), network, tuple(x.shape[1:]), False)
    run = read_format(format_, write_format(format_, source), source)
    for example in (x, torch.cat([x[:1]] * 3).repeat_interleave(2, 2), x[:1]):
        expected = outputs(network, example)
        tolerance = 1e-5 * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(outputs(run, example), expected, rtol=0, atol=tolerance)


def test_one_sample_past_the_slow_path_is_the_same(volume: Callable[..., Tensor]) -> None:
    network, x = network_of(SPEC), volume(batch=1)
    torch.testing.assert_close(outputs(network, x), network(x).detach(), rtol=0, atol=1e-5)


def test_bf16_stays_bf16(volume: Callable[..., Tensor]) -> None:
    network, x = network_of(SPEC), volume()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert outputs(network, x).dtype == torch.bfloat16
    half = copy.deepcopy(network).bfloat16()
    assert outputs(half, x.bfloat16()).isfinite().all()


@pytest.mark.parametrize("kind", [{"kind": "depthwise"}, {"kind": "low_rank", "rank": 1}])
def test_a_network_of_cheap_dendrites_costs_what_they_say(kind: dict, volume) -> None:
    """Beside copies: both costs together, as ``measure`` counts them."""
    plain = build_network({**SPEC, "dendrites": {}})
    added = {}
    for name, entry in (("cheap", kind), ("copies", {"kind": "copy"})):
        dendrites = {n: {"count": 1, "activation": "relu", **entry} for n in KINDS}
        grown = build_network({**SPEC, "dendrites": dendrites}).eval()
        parameters = count_parameters(grown) / count_parameters(plain) - 1
        flops = count_flops(grown, volume()) / count_flops(plain.eval(), volume()) - 1
        added[name] = (parameters, flops)
    assert added["copies"] == pytest.approx((1.0, 1.0), abs=0.03)
    assert all(0.03 < share < 0.30 for share in added["cheap"]), added


# Distal dendrites at the bottleneck and apical ones at the output layer, as an overlay grows them.
SITED = {"sets": [{"kind": "distal"}, {"kind": "apical"}], "activation": "kind"}


def sited_spec(base: dict, count: int = 1) -> dict:
    plain = {"format": 1, "base": base, "dendrites": {}}
    config = DendriteConfig.from_dict(SITED)
    return plain | {"dendrites": grown_entries(build_network(plain), config, count)}


@pytest.mark.parametrize("format_", PACKAGES)
def test_formats_of_kinds_at_sites(
    format_: str, volume: Callable[..., Tensor], tmp_path: Path
) -> None:
    """Two sets, batches of one and more, and another size than that of the export."""
    if missing_packages(PACKAGES[format_]):
        pytest.skip(f"model.{format_} needs the extra export")
    spec = sited_spec(BASE, count=2)
    network, x = network_of(spec), volume()
    source = Source(bundle_for(tmp_path, spec, network, x), network, tuple(x.shape[1:]), False)
    run = read_format(format_, write_format(format_, source), source)
    for example in (x, x[:1].repeat_interleave(2, 2)):
        expected = outputs(network, example)
        tolerance = 1e-5 * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(outputs(run, example), expected, rtol=0, atol=tolerance)


def test_kinds_at_sites_in_bf16(volume: Callable[..., Tensor]) -> None:
    network, x = network_of(sited_spec(BASE)), volume()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert outputs(network, x).isfinite().all()
    half = copy.deepcopy(network).bfloat16()
    assert outputs(half, x.bfloat16()).isfinite().all()
