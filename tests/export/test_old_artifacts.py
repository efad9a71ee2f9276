"""Artifacts of every released format load for ever, with the outputs they had when written."""

import json
from pathlib import Path

import pytest
import torch

from perforated_monai import build_network, load_weights
from perforated_monai.dendrites.block_layer import DendriticBlock
from perforated_monai.dendrites.layer import DendriticLayer

FOLDERS = sorted((Path(__file__).parents[1] / "data").glob("format*"))


def test_there_is_one_of_each_format() -> None:
    assert [f.name for f in FOLDERS] == ["format1"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_it_loads_and_gives_its_outputs(folder: Path) -> None:
    record = json.loads((folder / "network.json").read_text())
    assert record["format"] == int(folder.name.removeprefix("format"))
    network = build_network(record)
    load_weights(network, folder / "model.pt", record["model_sha256"]).eval()
    example = torch.load(folder / "example.pt", weights_only=True)
    for grad in (False, True):  # each has its own way through a dendritic layer
        with torch.set_grad_enabled(grad):
            found = network(example["image"])
        torch.testing.assert_close(found, example["pred"], rtol=0, atol=1e-5)
    kinds = {type(m) for m in network.modules()}
    assert {DendriticLayer, DendriticBlock} <= kinds
    assert (folder / "model.pt").stat().st_size < 20_000
