"""Weights to start from: read safely, loaded strictly, and known by a hash of their values."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from perforated_monai.errors import UserError
from perforated_monai.networks.weights import load_start, read_state, weights_hash


@pytest.mark.parametrize("wrap", [None, "model", "network", "state_dict"])
def test_flat_and_wrapped_files(wrap: str | None, tiny_unet: Callable, tmp_path: Path) -> None:
    state = {k: v + 1 for k, v in tiny_unet().state_dict().items()}
    file = tmp_path / "model.pt"
    torch.save(state if wrap is None else {wrap: state, "epoch": 3}, file)
    network = tiny_unet()
    load_start(network, file)
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())


def test_another_network_is_refused(tiny_unet: Callable, tmp_path: Path) -> None:
    torch.save(tiny_unet(channels=(4, 16)).state_dict(), tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model.pt does not fit.*the network has"):
        load_start(tiny_unet(), tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "does not read as tensors"),
        (b"no archive", "does not read as tensors"),
        (pickle.dumps({"a": Path}), "does not read as tensors"),
        (None, "There are no weights at"),
        ({"epoch": 3}, "must hold a state dict"),
        ({}, "must hold a state dict"),
        ([torch.zeros(1)], "must hold a state dict"),
        ({"model": {"a": "text"}}, "must hold a state dict"),
    ],
)
def test_other_files_are_refused(content: object, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(UserError, match=reason):
        read_state(file)


def test_the_hash_is_of_names_types_shapes_and_values() -> None:
    state = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3), "c": torch.tensor([True])}
    same = {k: state[k].clone() for k in ("c", "b", "a")}
    assert weights_hash(state) == weights_hash(same)
    others = [
        state | {"a": torch.tensor([1.0, 2.0000002])},
        state | {"a": torch.tensor([[1.0, 2.0]])},
        state | {"a": torch.tensor([1.0, 2.0], dtype=torch.float64)},
        {"x": state["a"], "b": state["b"], "c": state["c"]},
        {k: state[k] for k in ("a", "b")},
    ]
    assert len({weights_hash(s) for s in [state, *others]}) == 6
