"""The overlays of the ladder, as shipped: train, grow, resume, fold, export and segment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from helpers import harness
from helpers.harness import (
    BUNDLE,
    GROW,
    history,
    in_child,
    initialised,
    kill_self,
    refused,
    same_run,
    small_window_bundle,
    weights,
)
from helpers.ranks import on_ranks
from perforated_monai import UserError, build_network, load_weights
from perforated_monai.export.into_bundle import export_run
from perforated_monai.growth.folded import without_masks
from perforated_monai.inference.segment import Options, Segmenter, segment_folder
from perforated_monai.networks.fold import folded_line
from perforated_monai.networks.surgery import count_parameters
from perforated_monai.training.sparsity_handler import SparsityHandler

# Neither network has the residual units of the shipped one.
SMALL = {k: v for k, v in harness.SMALL.items() if k != "base_network_def::num_res_units"}
NETWORKS = {
    "small": SMALL | {"val_interval": 1},
    "mobile": SMALL,
    "sparse": SMALL
    | {
        "base_network_def::branches": [4, 4],
        "base_network_def::width": 2,
        "base_network_def::sparsity": 0.5,
        "sparsity::ramp_epochs": 1,
        "sparsity::settle_epochs": 2,
    },
}
each = pytest.mark.parametrize("name", NETWORKS)


def workflow(
    name: str,
    data: Path,
    out: Path,
    dendrites: bool = False,
    overlays: Sequence[str] = (),
    **changes: object,
) -> ConfigWorkflow:
    names = ["train.json", f"{name}.yaml", *(["dendrites.yaml"] if dendrites else []), *overlays]
    overrides = NETWORKS[name] | (GROW if dendrites else {}) | changes
    return initialised(BUNDLE, names, data, out, **overrides)


def train(name: str, data: Path, out: Path, dendrites: bool = False, **changes: object) -> None:
    workflow(name, data, out, dendrites, **changes).run()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The shipped configs with a small window."""
    return small_window_bundle(tmp_path / "bundle")


@each
def test_it_trains_exports_and_segments(
    name: str, few_phantoms: Path, bundle: Path, tmp_path
) -> None:
    train(name, few_phantoms, tmp_path / "run")
    epochs = [e for e in history(tmp_path / "run") if e["event"] == "epoch"]
    assert len(epochs) == 3 and epochs[-1]["loss"] < epochs[0]["loss"]
    record = export_run(tmp_path / "run", bundle, volumes=few_phantoms)
    network = load_weights(build_network(record), bundle / "models/model.pt").eval()
    segmenter = Segmenter(bundle, device="cpu", allow_phantom_weights=True)
    done = segment_folder(
        few_phantoms / "imagesTr", tmp_path / "masks", segmenter, Options(progress=False)
    )
    assert done.exit_code == 0 and all(row["status"] == "done" for row in done.rows)
    assert count_parameters(network) == record["parameters"]["total"]
    if name == "sparse":
        folded = record["folded"]
        assert record["base"]["sparsity"] is None
        assert record["base"]["branches"] == folded["branches"]["after"] != [4, 4]
        assert folded["parameters"]["after"] == record["parameters"]["total"]
        assert folded["parameters"]["before"] > folded["parameters"]["after"]
        assert folded["flops"]["before"] > folded["flops"]["after"] > 0
        said = f"8 branches, {folded['parameters']['before']:,} parameters, "
        assert said in folded_line(folded)
        # The open branches cost at most half of all: that is the target.
        events = [e for e in history(tmp_path / "run") if e["event"] == "sparsity"]
        assert [e["settled"] for e in events] == [False, False, True]
        assert [e["target"] for e in events] == [0.5, 0.5, 0.5]
        assert events[record["trained"]["best_epoch"] - 1]["branches"] == record["base"]["branches"]
    else:
        assert "folded" not in record


@each
def test_it_grows_and_the_dendrites_are_exported(
    name: str, few_phantoms: Path, bundle: Path, tmp_path
) -> None:
    pytest.importorskip("perforatedai", reason="extra train is not installed: nothing can grow")
    train(
        name, few_phantoms, tmp_path / "run", dendrites=True, epochs=5, **{"dendrites::patience": 2}
    )
    grown = [e for e in history(tmp_path / "run") if e["event"] == "grow"]
    assert grown and grown[0]["layers"] >= (3 if name == "small" else 8)
    record = export_run(tmp_path / "run", bundle, volumes=few_phantoms)
    best = torch.load(tmp_path / "run/checkpoints/best.pt", weights_only=True)
    assert bool(record["dendrites"]) == (best["growth"]["sets"] > 0)
    assert record["label_agreement"] == 1


def test_the_shipped_kinds_grow_on_the_sparse_network_and_it_is_folded(
    few_phantoms: Path, bundle: Path, tmp_path: Path
) -> None:
    """Distal and apical dendrites: the second makes a root of its own around the network."""
    pytest.importorskip("perforatedai", reason="extra train is not installed: nothing can grow")
    changes = {"dendrites::kind": None, "dendrites::patience": 2, "epochs": 5}
    made = workflow("sparse", few_phantoms, tmp_path / "run", dendrites=True, **changes)
    trainer = made.parser.get_parsed_content("train::trainer")
    evaluator = made.parser.get_parsed_content("validate::evaluator")

    def rising() -> None:  # so that the set is kept
        evaluator.state.metrics["val_mean_dice"] = 0.1 * trainer.state.epoch

    from ignite.engine import Events

    evaluator.add_event_handler(Events.COMPLETED, rising)
    made.run()
    record = export_run(tmp_path / "run", bundle, volumes=few_phantoms)
    kinds = sorted(entry["kind"] for entry in record["dendrites"].values())
    assert "distal" in kinds and "apical" in kinds
    folded = record["folded"]
    assert sum(folded["branches"]["after"]) < sum(folded["branches"]["before"])
    assert record["base"]["sparsity"] is None and record["label_agreement"] == 1
    alone = without_masks(made.parser.get_parsed_content("network"))  # as a study measures it
    assert count_parameters(alone) == record["parameters"]["total"]


def test_cheap_dendrites_grow_beside_the_branches_but_not_in_them(
    few_phantoms: Path, bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip("perforatedai", reason="extra train is not installed: nothing can grow")
    changes = {"dendrites::kind": "pointwise", "dendrites::patience": 1, "epochs": 3}
    with refused(r"kind pointwise on down\.0\.branch.* cannot be folded.*exclude \[\*\.reduce"):
        train("sparse", few_phantoms, tmp_path / "refused", dendrites=True, **changes)
    assert not (tmp_path / "refused" / "checkpoints").exists()
    changes["dendrites::exclude"] = ["*.reduce", "*.branch", "*.expand"]
    train("sparse", few_phantoms, tmp_path / "run", dendrites=True, **changes)
    record = export_run(tmp_path / "run", bundle, volumes=few_phantoms)
    assert all(d["kind"] == "pointwise" for d in record["dendrites"].values())


def test_dendrites_on_the_head_alone(few_phantoms: Path, tmp_path: Path) -> None:
    pytest.importorskip("perforatedai", reason="extra train is not installed: nothing can grow")
    train(
        *("mobile", few_phantoms, tmp_path / "run"),
        dendrites=True,
        epochs=3,
        **{"dendrites::patience": 1, "dendrites::layer_names": ["head"]},
    )
    assert next(e["layers"] for e in history(tmp_path / "run") if e["event"] == "grow") == 1


@pytest.mark.parametrize("dendrites", [False, True], ids=["plain", "dendrites"])
def test_a_killed_sparse_run_goes_on_exactly(
    dendrites: bool, few_phantoms: Path, tmp_path: Path
) -> None:
    if dendrites:
        pytest.importorskip("perforatedai", reason="extra train is not installed: nothing can grow")
    changes: dict = {"epochs": 4}
    if dendrites:
        changes["dendrites::patience"] = 2
    train("sparse", few_phantoms, tmp_path / "whole", dendrites, **changes)

    def killed() -> None:
        made = workflow("sparse", few_phantoms, tmp_path / "cut", dendrites, **changes)
        trainer = made.parser.get_parsed_content("train::trainer")
        from ignite.engine import Events

        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=5), lambda _: kill_self())
        made.run()

    assert in_child(killed) == -9
    assert history(tmp_path / "cut")
    train("sparse", few_phantoms, tmp_path / "cut", dendrites, **changes)
    same_run(tmp_path / "whole", tmp_path / "cut")
    assert "masks.theta" in weights(tmp_path / "cut")


@pytest.mark.slow
def test_two_processes_train_the_same_sparse_network(phantoms: Path, tmp_path: Path) -> None:
    """Masks are drawn apart on each rank; weights and masks stay bit for bit alike."""

    def work(rank: int) -> None:
        overlays = ["multi_gpu_train.yaml"]
        made = workflow("sparse", phantoms, tmp_path / "run", overlays=overlays, backend="gloo")
        made.run()
        network = made.parser.get_parsed_content("network")
        torch.save(network.state_dict(), tmp_path / f"{rank}.pt")

    assert on_ranks(work) == [0, 0]
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_the_penalty_reaches_the_loss(few_phantoms: Path, tmp_path: Path) -> None:
    """The same steps with and without it: the masks close only with it. A step is 0.1 × 5 units."""
    shares = {}
    for weight in (0.0, 5.0):
        out = tmp_path / str(weight)
        train("sparse", few_phantoms, out, **{"sparsity::weight": weight, "learning_rate": 0.1})
        events = [e for e in history(out) if e["event"] == "sparsity"]
        shares[weight] = events[-1]["open_share"]
    assert shares[5.0] < shares[0.0] - 0.1


# -- sizes and bad input ---------------------------------------------------------------------


@pytest.mark.parametrize(("name", "parameters"), [("mobile", 84_079), ("sparse", 39_315)])
def test_the_shipped_networks_have_the_sizes_that_are_documented(name, parameters) -> None:
    config = ConfigParser(
        ConfigParser.load_config_files(
            [str(BUNDLE / "configs" / f) for f in ("train.json", f"{name}.yaml")]
        )
    )
    network = config.get_parsed_content("base_network_def")
    assert count_parameters(network) == parameters
    x = torch.randn(1, 1, *config["roi_size"])
    assert network.eval()(x).shape == (1, 3, *x.shape[2:])


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("sparse", {"base_network_def::sparsity": 1.0}, "sparsity must be a number between 0"),
        ("sparse", {"base_network_def::sparsity": None}, "SparsityHandler needs a network with"),
        ("sparse", {"base_network_def::strides": [2, 2]}, "strides must have one entry fewer"),
        ("sparse", {"sparsity::ramp_epochs": 30}, "settle_epochs must be at least ramp_epochs"),
        ("sparse", {"sparsity::weight": -1}, "weight must be a number >= 0; got -1"),
        ("mobile", {"base_network_def::channels": [4]}, "channels must be a list of at least two"),
    ],
)
def test_wrong_settings_are_refused_before_training(
    name: str, changes: dict, said: str, few_phantoms: Path, tmp_path: Path
) -> None:
    with refused(said):
        train(name, few_phantoms, tmp_path / "run", **changes)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_network_without_branches_has_no_sparsity(tiny_unet) -> None:
    with pytest.raises(UserError, match=r"needs a network with masked convolutions.*got UNet"):
        SparsityHandler(tiny_unet())
