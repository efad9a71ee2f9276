"""Comparison, patches, cost and the table of the bundle's page."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from perforated_monai import UserError
from perforated_monai.export.new_bundle import example_space
from perforated_monai.export.parity import markdown, put_between_markers
from perforated_monai.inference.patches import load_patches, smooth_noise
from perforated_monai.networks.agreement import compare, exclusive_labels
from perforated_monai.networks.cost import count_flops, peak_memory, time_patches

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"

PREPROCESSING = {
    "_target_": "Compose",
    "transforms": [
        {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
        {"_target_": "NormalizeIntensityd", "keys": "image"},
    ],
}


def test_equal_outputs_agree_and_others_do_not() -> None:
    torch.manual_seed(0)
    a = [torch.randn(2, 3, 8, 8)]
    assert compare(a, a) == {"max_abs_difference": 0, "relative": 0, "label_agreement": 1}
    b = [a[0].clone()]
    b[0][0, :, 0, 0] = a[0][0, :, 0, 0].roll(1)
    found = compare(a, b)
    assert found["label_agreement"] == 1 - 1 / 128
    assert found["max_abs_difference"] == pytest.approx(float((a[0] - b[0]).abs().max()))
    with pytest.raises(ValueError):
        compare(a, [])


def test_regions_are_compared_one_by_one() -> None:
    a, b = torch.tensor([[[2.0], [1.0]]]), torch.tensor([[[2.0], [-1.0]]])
    assert compare([a], [b], exclusive=True)["label_agreement"] == 1
    assert compare([a], [b], exclusive=False)["label_agreement"] == 0.5


def test_postprocessing_says_how_labels_are_made() -> None:
    def step(**options: object) -> dict:
        return {"postprocessing": {"transforms": [{"_target_": "AsDiscreted", **options}]}}

    assert exclusive_labels({}) and exclusive_labels(step(argmax=True))
    assert not exclusive_labels(step(threshold=0.5))


def test_flops_of_a_convolution() -> None:
    layer = nn.Conv3d(2, 4, 3, padding=1)
    assert count_flops(layer, torch.zeros(2, 2, 5, 6, 7)) == 2 * 4 * 2 * 27 * 5 * 6 * 7


def test_time_is_a_sample_and_the_slower_run_takes_longer() -> None:
    x = torch.randn(2, 1, 32, 32)
    runs = {"one": lambda x: x.sin(), "many": lambda x: [x.sin() for _ in range(200)][-1]}
    times = time_patches(runs, x, rounds=5)
    assert times["many"]["median"] > times["one"]["median"]
    assert all(t["q1"] <= t["median"] <= t["q3"] for t in times.values())


def test_peak_memory_sees_what_a_call_takes() -> None:
    x = torch.zeros(1)
    found = peak_memory(lambda x: torch.ones(16, 2**20).sum(), x)  # 64 MiB
    if found is None:
        pytest.skip("this system does not tell the peak of resident memory")
    assert 55 < found < 120
    assert peak_memory(lambda x: x + 1, x) < 30


def test_patches_of_phantoms_have_the_window_size() -> None:
    found = load_patches(".", {"preprocessing": PREPROCESSING}, (1, 16, 16, 16), limit=4)
    assert [tuple(b.shape) for b in found.batches] == [(2, 1, 16, 16, 16)] * 2
    assert found.source == "4 patches of 2 phantom volumes"
    assert all(b.isfinite().all() and b.std() > 0.1 for b in found.batches)


def test_volumes_smaller_than_the_window_are_padded(phantoms) -> None:
    folder = phantoms / "imagesTr"
    found = load_patches(".", {"preprocessing": PREPROCESSING}, (1, 96, 96, 96), folder, limit=3)
    assert [tuple(b.shape) for b in found.batches] == [(2, 1, 96, 96, 96)]


def test_volumes_that_do_not_fit_are_named(phantoms) -> None:
    with pytest.raises(UserError, match=r"phantom.*takes 4 channels"):
        load_patches(".", {"preprocessing": PREPROCESSING}, (4, 16, 16, 16), phantoms)
    with pytest.raises(UserError, match="no preprocessing"):
        load_patches(".", {}, (1, 16, 16, 16), phantoms)


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 8, 8, 8)])
def test_networks_that_no_phantom_fits_get_noise(shape: tuple[int, ...]) -> None:
    found = load_patches(".", {}, shape, limit=3)
    assert [tuple(b.shape) for b in found.batches] == [(2, *shape)] * 2
    assert "noise" in found.source
    assert torch.equal(smooth_noise(shape, 1)[0], smooth_noise(shape, 2)[0])


REPORT = {
    "volumes": "8 patches",
    "patch": [1, 16, 16, 16],
    "batch": 2,
    "machine": {"cpu": "A CPU", "threads": 1, "torch": "2"},
    "parameters": {"base": 1000, "total": 2345},
    "flops": {"base": 1e9, "total": 2e9},
    "rows": [
        {
            "name": "model.pt",
            "file_bytes": 1_500_000,
            "max_abs_difference": 1e-6,
            "label_agreement": 1.0,
            "ms_per_patch": {"median": 1.0, "q1": 0.5, "q3": 2.0},
            "peak_memory_mib": None,
        }
    ],
}


def test_the_table_replaces_what_is_between_the_markers_only() -> None:
    table = markdown(REPORT)
    assert "2,345 parameters" in table and "| model.pt | 1.50 MB |" in table
    page = "# Title\n<!-- parity -->\nold \\1\n<!-- /parity -->\nend\n"
    found = put_between_markers(page, table)
    assert found == f"# Title\n<!-- parity -->\n{table}\n<!-- /parity -->\nend\n"
    assert put_between_markers(found, table) == found
    assert put_between_markers("no markers", table) == "no markers"


def test_a_report_says_engine_and_missing_memory() -> None:
    assert markdown(REPORT).endswith("| 1.0 (0.5–2.0) |  |")
    chosen = markdown({**REPORT, "engine": {"name": "torch", "reason": "torch: 1 ms."}})
    assert chosen.endswith("|  |\n\nChosen engine: torch: 1 ms.")


@pytest.mark.parametrize(
    "file", sorted(BUNDLES.glob("*/models/parity.json")), ids=lambda f: f.parents[1].name
)
def test_the_committed_pages_hold_the_tables_of_their_reports(file: Path) -> None:
    page = (file.parents[1] / "docs" / "README.md").read_text(encoding="utf-8")
    assert f"\n{markdown(json.loads(file.read_text()))}\n<!-- /parity -->" in page


def test_monai_reads_the_patterns_of_spatial_shape() -> None:
    """A private function of MONAI, wrapped once: its meaning must not change unseen."""
    assert example_space([32, "*", "16*n", "2**p", "2**p*n"]) == (32, 64, 64, 32, 128)
    with pytest.raises(ValueError):
        example_space(["16*k"])
