"""A run is continued on the data that it began with, or refused by the names that differ."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from ignite.engine import Events

from helpers.harness import history, in_child, kill_self, refused, train, workflow
from perforated_monai import UserError
from perforated_monai.training.provenance import provenance
from perforated_monai.training.run_folder import RunFolder
from perforated_monai.training.trained_on import is_record, refuse_changed_data, trained_on


def engine(*cases: dict) -> SimpleNamespace:
    return SimpleNamespace(data_loader=SimpleNamespace(dataset=SimpleNamespace(data=list(cases))))


@pytest.fixture
def cases(tmp_path: Path) -> list[dict]:
    made = []
    for name in ("a", "b", "c"):
        paths = {key: tmp_path / f"{key}_{name}" for key in ("image", "label")}
        for key, path in paths.items():
            path.write_text(f"{key} {name}")
        made.append({key: str(path) for key, path in paths.items()} | {"case": name})
    return made


def test_a_record_holds_names_and_checksums_but_no_path(cases: list[dict]) -> None:
    record = trained_on(engine(*cases[:2]), engine(cases[2]))
    assert [c["case"] for c in record["training"]] == ["a", "b"]
    assert all(set(c) == {"case", "image", "label"} for c in record["training"])
    assert len({c["image"] for c in record["training"] + record["validation"]}) == 3
    assert "/" not in repr(record)


def test_files_of_several_channels_and_folders_count(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "1.dcm").write_text("1")
    case = {"image": [str(folder), str(folder / "1.dcm")], "number": 3}
    before = trained_on(engine(case), engine())
    assert before["training"][0]["case"] == "1.dcm"
    (folder / "2.dcm").write_text("2")
    with pytest.raises(UserError, match=r"training: image of 1\.dcm changed"):
        refuse_changed_data(tmp_path, before, trained_on(engine(case), engine()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: Path(c[0]["image"]).write_text("other"), "training: image of a changed"),
        (lambda c: Path(c[2]["label"]).write_text("other"), "validation: label of c changed"),
        (lambda c: Path(c[1]["label"]).unlink(), "training: label of b is missing"),
        (lambda c: c.pop(0), "training: a is gone"),
        (lambda c: c[0].update(case="z"), "training: z is new"),
        (lambda c: c.insert(1, c.pop(0)), "training: another order"),
    ],
)
def test_what_changed_is_named(change, said: str, cases: list[dict], tmp_path: Path) -> None:
    before = trained_on(engine(*cases[:2]), engine(cases[2]))
    last = cases[2]
    change(cases)
    now = trained_on(engine(*(c for c in cases if c is not last)), engine(last))
    with pytest.raises(UserError, match=said):
        refuse_changed_data(tmp_path, before, now)


def test_the_same_content_elsewhere_and_later_is_the_same(cases: list[dict], tmp_path: Path):
    before = trained_on(engine(*cases), engine())
    for case in cases:
        for key in ("image", "label"):
            case[key] = str(shutil.copy(case[key], tmp_path / f"moved {key} {case['case']}"))
            os.utime(case[key], (0, 0))
    refuse_changed_data(tmp_path, before, trained_on(engine(*cases), engine()))


def test_a_dataset_without_a_list_is_none_and_stays_none(tmp_path: Path, cases: list[dict]) -> None:
    unseen = trained_on(SimpleNamespace(data_loader=[1, 2]), SimpleNamespace())
    assert unseen == {"training": None, "validation": None}
    refuse_changed_data(tmp_path, unseen, unseen)
    with pytest.raises(UserError, match="training: its datalist was not seen then"):
        refuse_changed_data(tmp_path, unseen, trained_on(engine(*cases), SimpleNamespace()))


@pytest.mark.parametrize(
    "value",
    [1, {}, {"training": 3, "validation": None}, {"training": [{"image": "x"}], "validation": []}],
)
def test_a_record_that_was_edited_is_damage(value: object, tmp_path: Path) -> None:
    assert not is_record(value)
    provenance({"a": 1}).write(tmp_path / "config.json")
    stored = json.loads((tmp_path / "config.json").read_text()) | {"data": value}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        RunFolder(tmp_path).provenance()


@pytest.mark.parametrize("text", ["{half\n", "[1]\n", "3\n", "[" * 100_000 + "\n"])
def test_a_history_that_was_edited_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text(text)
    with pytest.raises(UserError, match=r"history\.jsonl"):
        RunFolder(tmp_path).history()


def test_a_killed_run_on_data_that_changed_meanwhile_is_refused(
    few_phantoms: Path, tmp_path: Path
) -> None:
    """The size and the time stamp of the image stay as they were."""
    data, out = shutil.copytree(few_phantoms, tmp_path / "data"), tmp_path / "run"

    def killed() -> None:
        made = workflow(data, out)
        trainer = made.parser.get_parsed_content("train::trainer")
        trainer.add_event_handler(Events.EPOCH_STARTED(once=2), kill_self)
        made.run()

    in_child(killed)
    record = RunFolder(out).provenance().data
    case = record["training"][0]["case"]
    image = data / "imagesTr" / f"{case}.nii.gz"
    content, stat = bytearray(image.read_bytes()), image.stat()
    content[4] ^= 1  # the time in the gzip header: nothing that unpacking shows
    image.write_bytes(content)
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    before = history(out)
    with refused(f"training: image of {case} changed.*Put the files back"):
        train(data, out)
    assert history(out) == before
