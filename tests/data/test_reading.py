"""Files that somebody else wrote: read within limits, or refused in one line."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.segment_bundle import blocks, change, make_bundle, save
from perforated_monai import UserError
from perforated_monai.commands.main import main
from perforated_monai.data.reading import from_json, from_yaml, read, read_mapping, read_or_refuse

BOMB = "a: &a [1,2,3,4,5,6,7,8,9]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
LONG_CHAIN = "- &a0 [1]\n" + "".join(f"- &a{k + 1} [*a{k}]\n" for k in range(500))

BAD_YAML = {
    "bomb": (BOMB, "its aliases stand for more than"),
    "chain": (LONG_CHAIN, "nests more than 100 levels"),
    "merge bomb": (BOMB.replace("[", "{<<: [").replace("]", "]}"), "its aliases|merging"),
    "own parent": ("a: &a [*a]", "an alias of what holds it"),
    "deep": ("[" * 5000, "nests more than 100 levels"),
    "twice": ("a: 1\nb: 2\na: 3", "line 3: the key 'a' twice"),
    "runs": ("a: !!python/object/apply:os.system ['touch ran']", "a tag; plain values only"),
    "odd key": ("? [1, 2]\n: 3", "a key that is no plain value"),
    "base 60": ("a: " + ":".join(["1"] * 100_000), "a number of 199999 digits"),
    "hexadecimal": ("a: 0x" + "f" * 4000, "a number of 4002 digits"),
    "two": ("--- 1\n--- 2", "another document"),
    "no date": ("a: 2001-99-99", "month must be"),
    "long": ("a: " + "x" * 5_000_000, "characters of YAML"),
}
BAD_JSON = {
    "deep": ("[" * 200_000, "nests more than 100 levels"),
    "deep and closed": ("[" * 500 + "]" * 500, "nests more than 100 levels"),
    "twice": ('{"a": {"b": 1, "b": 2}}', "the key 'b' twice"),
    "cut": ('{"a":\n [1,', "line 2: no JSON"),
    "long number": ("9" * 5000, "digits"),
    "quotes": ('"' + '\\"' * 300_000, "no JSON"),
    "quotes and a stroke": ('"' + '\\"' * 300_000 + "\\", "no JSON"),
}


BAD = [(from_yaml, *case) for case in BAD_YAML.values()]
BAD += [(from_json, *case) for case in BAD_JSON.values()]
NAMES = [*(f"YAML, {name}" for name in BAD_YAML), *(f"JSON, {name}" for name in BAD_JSON)]


@pytest.mark.parametrize(("parse", "text", "reason"), BAD, ids=NAMES)
def test_text_that_is_refused(parse: Callable[[str], object], text: str, reason: str) -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match=reason) as error:
        parse(text)
    assert "\n" not in str(error.value) and time.monotonic() - start < 20


def test_what_people_write_is_read() -> None:
    text = "base: &b {x: 1, y: [a, 'b']}\nmore: {<<: *b, x: 2}\nagain: [*b, *b]\n"
    assert from_yaml(text)["more"] == {"x": 2, "y": ["a", "b"]}
    assert from_yaml("") is None
    assert from_json(b'\xef\xbb\xbf{"a": "[[[[{"}') == {"a": "[[[[{"}
    assert from_json("[" * 100 + "]" * 100)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None, database=None)
@given(plain)
def test_json_comes_back(value) -> None:
    assert from_json(json.dumps(value)) == value


@settings(max_examples=200, deadline=None, database=None)
@given(st.text(alphabet='[]{}",:\\a1 \n&*<!-|>?%@`', max_size=60), st.booleans())
def test_any_text_is_read_or_refused_in_one_line(text: str, as_yaml: bool) -> None:
    try:
        from_yaml(text) if as_yaml else from_json(text)
    except ValueError as error:
        assert "\n" not in str(error) and str(error)


def test_only_regular_files_of_a_sensible_size_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe4"}')
    with (tmp_path / "large.json").open("wb") as handle:
        handle.truncate(300 * 2**30)
    for name, reason in {
        "pipe": "no regular file",
        "folder": "no regular file",
        "large": "more than",
        "latin": "byte 7 is not UTF-8",
        "missing": "No such file",
    }.items():
        with pytest.raises(UserError, match=f"{name}.json cannot be read: .*{reason}"):
            read_or_refuse(tmp_path / f"{name}.json")
    with pytest.raises((OSError, ValueError)):
        read("/dev/zero")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match="must hold a mapping of keys; got list"):
        read_mapping(tmp_path / "list.json")


# -- every command ----------------------------------------------------------------------------

DEEP, TWICE, LIST = "[" * 100_000, '{"a": 1, "a": 2}', "[1, 2]"
PLACES = {
    "segment: inference": ("{b}/configs/inference.json", "segment {b} {t}/o --bundle {b}"),
    "segment: metadata": ("{b}/configs/metadata.json", "segment {b} {t}/o --bundle {b}"),
    "segment: list": ("{t}/list.json", "segment {t}/list.json {t}/o --bundle {b}"),
    "check: inference": ("{b}/configs/inference.json", "check {b}"),
    "check: large files": ("{b}/large_files.json", "check {b}"),
    "check: network": ("{b}/models/network.json", "check {b}"),
    "check: manifest": ("{t}/m.json", "check {t} --manifest {t}/m.json"),
    "prepare: manifest": ("{t}/m.json", "prepare {t}/m.json --root {t}"),
    "prepare: dataset": ("{t}/dataset.json", "prepare --root {t} --write {t}/n.json"),
    "overlay": ("{b}/configs/train.json", "overlay {b}"),
    "card: metadata": ("{b}/configs/metadata.json", "card {b}"),
    "card: network": ("{b}/models/network.json", "card {b}"),
    "card: parity": ("{b}/models/parity.json", "card {b}"),
    "card: scores": ("{b}/docs/cases.json", "card {b}"),
    "pack: metadata": ("{b}/configs/metadata.json", "pack {b} {t}/p.zip"),
    "pack: large files": ("{b}/large_files.json", "pack {b} {t}/p.zip"),
    "export: network": ("{b}/models/network.json", "export --bundle {b} --formats none"),
    "export: train": ("{b}/configs/train.json", "export --bundle {b} --formats none"),
    "verify": ("{b}/configs/inference.json", "verify {b}"),
    "efficiency: network": ("{b}/models/network.json", "efficiency {b} --out {t}/e"),
    "efficiency: claims": ("{t}/c.json", "efficiency {b} --out {t}/e --claims {t}/c.json"),
    "study": ("{t}/s.json", "study status {t}/s.json"),
    "report: run": ("{t}/masks/run.json", "report {t}/masks"),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("reading") / "tiny")


@pytest.mark.parametrize(
    "content", [DEEP, TWICE, LIST, None], ids=["deep", "twice", "list", "pipe"]
)
@pytest.mark.parametrize("place", PLACES)
def test_every_command_refuses_in_one_line(place, content, bundle, tmp_path, capsys) -> None:
    """A reader of its own would end in a traceback, take the last of two values, or wait."""
    shutil.copytree(bundle, tmp_path / "b")
    (tmp_path / "masks").mkdir()
    name, command = (text.format(b=tmp_path / "b", t=tmp_path) for text in PLACES[place])
    file = Path(name)
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    if content is None:
        os.mkfifo(file)
    else:
        file.write_text(content)
    code = main(command.split())
    shown = capsys.readouterr()
    said = shown.err.strip() or shown.out
    assert "Traceback" not in said and "No rule names this" not in said, said
    if place == "check: large files" and content == LIST:
        return
    assert code == 1, (code, said)
    assert len(shown.err.splitlines()) <= 1, shown.err


@pytest.mark.parametrize(
    ("name", "key", "value", "command"),
    [
        ("inference", "sw_batch_size", None, "segment"),
        ("inference", "val_roi_size", ["x", 1, 1], "segment"),
        ("inference", "inferer", {"_target_": "Compose"}, "segment"),
        (
            "inference",
            "preprocessing",
            {"_target_": "Compose", "transforms": [{"x": 1}]},
            "segment",
        ),
        ("inference", "network_def", [1], "segment"),
        ("metadata", "segment", [1], "segment"),
        ("metadata", "segment", {"training_ranges": {"_target_": "no.such"}}, "card"),
        ("metadata", "network_data_format", {"inputs": {"image": {}}, "outputs": -1}, "card"),
        ("metadata", "network_data_format", [], "segment"),
    ],
)
def test_wrong_kinds_in_a_config_are_one_line(
    name, key, value, command, bundle, tmp_path, capsys
) -> None:
    """Found by the fuzzing suite: each was an error that no rule names."""
    shutil.copytree(bundle, tmp_path / "b")
    save(tmp_path / "in" / "a.nii", blocks((9, 8, 7)))
    change(tmp_path / "b", f"{name}.json", **{key: value})
    words = {"card": ["card", str(tmp_path / "b")]}
    words["segment"] = ["segment", str(tmp_path / "in"), str(tmp_path / "o"), "--device", "cpu"]
    words["segment"] += ["--bundle", str(tmp_path / "b")]
    assert main(words[command]) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "No rule names this" not in said, said


BOMBS = {
    "check": ("train", "check {b}"),
    "verify": ("train", "verify {b}"),
    "overlay": ("train", "overlay {b}"),
    "pack": ("train", "pack {b} {t}/p.zip"),
    "segment": ("inference", "segment {t}/scans {t}/o --bundle {b}"),
}


@pytest.mark.parametrize("command", BOMBS)
def test_every_command_that_reads_configs_refuses_an_alias_bomb(
    command, bundle, tmp_path, capsys
) -> None:
    shutil.copytree(bundle, tmp_path / "b")
    (tmp_path / "scans").mkdir()
    (tmp_path / "b" / "LICENSE").write_text("Apache License 2.0")
    config, words = BOMBS[command]
    (tmp_path / "b" / "configs" / f"{config}.json").unlink()
    (tmp_path / "b" / "configs" / f"{config}.yaml").write_text(BOMB)
    start = time.process_time()
    code = main(words.format(b=tmp_path / "b", t=tmp_path).split())
    assert time.process_time() - start < 20  # unfolded it would take longer than anybody waits
    said = "".join(capsys.readouterr())
    assert code == 1 and f"{config}.yaml" in said and "alias" in said, said
    assert not (tmp_path / "o").exists() and not (tmp_path / "p.zip").exists()
