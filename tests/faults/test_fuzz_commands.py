"""Random command lines and bundle configs: one line, a documented exit code, nothing executed."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.fuzzing import MODEST, SHORT, at_length
from helpers.segment_bundle import blocks, labels_of, make_rounding_bundle, read, save
from perforated_monai.commands.main import main

FLAGS = ["--workers", "--overlap", "--tta", "--notta", "--resume", "--preview", "--anonymous"]
FLAGS += ["--series", "--engine", "--device", "--report", "--probabilities", "--trust", "--bundle"]
FLAGS += ["--manifest", "--json", "--headers", "--list-rules", "--out", "--cases", "--seed", "--"]
FLAGS += ["--root", "--write", "--name", "--formats", "--layers", "--metric", "--config", "--help"]
VALUES = ["0", "1", "-1", "nan", "inf", "1e400", "true", "false", "None", "[a]", "cpu", "cuda:9"]
VALUES += ["mps", "torch", "a b", "{in}", "{out}", "{bundle}", "{in}/a.nii", "/dev/null", ".", "é"]
VALUES += ["2025_01_31", "1.10", "{tmp}/x.html", "{tmp}/x.json", "-", "\udcff", "{in}/no", "'"]
words = st.lists(
    st.one_of(
        st.sampled_from(FLAGS),
        st.sampled_from(VALUES),
        st.tuples(st.sampled_from(FLAGS), st.sampled_from(VALUES)).map("=".join),
        st.text(st.characters(codec="utf-8"), max_size=6),
    ),
    max_size=6,
)
COMMANDS = ["segment", "check", "overlay", "export", "verify", "card", "report", "prepare", "pack"]
COMMANDS += ["phantom", "study", "efficiency", "x", ""]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A bundle and a scan, which each example gets a copy of."""
    folder = tmp_path_factory.mktemp("place")
    make_rounding_bundle(folder / "bundle")
    save(folder / "in" / "a.nii", blocks((9, 8, 7)))
    return folder


def run(arguments: list[str], root: Path) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    here = Path.cwd()
    os.chdir(root)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
    finally:
        os.chdir(here)
    return code, out.getvalue(), err.getvalue()


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def one_line(command: str, given_words: list[str], place: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        shutil.copytree(place, root, dirs_exist_ok=True)
        names = {"in": "in", "out": "out", "bundle": "bundle", "tmp": "."}
        filled = [command]
        if command == "segment":
            filled += ["in", "out"]
        for word in given_words:
            for key, value in names.items():
                word = word.replace("{" + key + "}", value)
            filled.append(word)
        before = files(root)
        code, _, err = run(filled, root)
        after = files(root)
        assert code in (0, 1, 2, 3), (filled, code)
        assert "Traceback" not in err and "No rule names this" not in err, (filled, err)
        if code == 2:
            assert err.strip() and "\n" not in err.strip() and after == before, (filled, err)
        if code == 1:
            assert err.strip() or command in ("check", "verify", "prepare"), filled
        changed = {f for f in before if after.get(f) != before[f]}
        assert all(f.startswith("bundle/") and command in ("export", "card") for f in changed)


@given(command=st.sampled_from(COMMANDS), given_words=words)
@settings(max_examples=5 * SHORT, **MODEST)
def test_any_command_line(place, command, given_words):
    one_line(command, given_words, place)


@at_length(0.2)
@given(command=st.sampled_from(COMMANDS), given_words=words)
def test_any_command_line_at_length(place, command, given_words):
    one_line(command, given_words, place)


# -- configs of a bundle ------------------------------------------------------------------------

MARK = "ran_by_a_config"
TEXTS = ["", "@x", "@network", "%x", "$1+1", "$@x", "image", "/etc/passwd", "http://127.0.0.1:9"]
TEXTS += [f"$open('{MARK}', 'w')", f"$__import__('os').mkdir('{MARK}')", "$[].__class__", "$x ="]
TARGETS = ["Compose", "LoadImaged", "SaveImaged", "Lambdad", "os.mkdir", "monai.data.CSVDataset"]
TARGETS += ["WriteFileMapping", "EnsureTyped", "ScaleIntensityd", "Activationsd", "no.such", ""]
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([0.0, -1.5, 1e30, float("nan")]),
    st.sampled_from(TEXTS),
    st.text(max_size=5),
)
content = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["keys", "func", "src", "path", "output_dir", "x", "_requires_"]),
            inner,
            max_size=3,
        ),
        st.tuples(st.sampled_from(TARGETS), inner).map(
            lambda t: {"_target_": t[0], "keys": "image", "func": t[1], "src": t[1]}
        ),
    ),
    max_leaves=6,
)
changes = st.lists(st.tuples(st.integers(0, 10**6), content), min_size=1, max_size=2)


def places_in(value: object, path: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, item in inner:
        found.append((*path, key))
        if isinstance(item, (dict, list)):
            found += places_in(item, (*path, key))
    return found


def put(config: dict, path: tuple, value: object) -> None:
    for key in path[:-1]:
        config = config[key]
    config[path[-1]] = value


def one_config(name: str, changed: list[tuple[int, object]], place: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        shutil.copytree(place, root, dirs_exist_ok=True)
        config = read(root / "bundle", name)
        for where, value in changed:
            paths = places_in(config)
            put(config, paths[where % len(paths)], copy.deepcopy(value))
        (root / "bundle" / "configs" / name).write_text(json.dumps(config))
        before = files(root)
        for command in (
            ["segment", "in", "out", "--bundle", "bundle", "--device", "cpu"],
            ["check", "bundle"],
            ["verify", "bundle"],
            ["card", "bundle"],
            ["overlay", "bundle"],
        ):
            code, _, err = run(command, root)
            assert code in (0, 1, 3), (command, code, err)
            assert "Traceback" not in err and "No rule names this" not in err, (command, err)
            assert not list(root.rglob(f"{MARK}*")) and not Path(MARK).exists()
            if command[0] == "segment" and code == 0:
                assert labels_of(root / "out" / "a_seg.nii.gz").shape == (9, 8, 7)
        after = files(root)
        assert {f for f in before if after.get(f) != before[f]} <= {"bundle/docs/MODEL_CARD.md"}
        new = {f for f in after if f not in before}
        assert all(f.startswith("out/") or f == "bundle/docs/MODEL_CARD.md" for f in new), new


configs = st.sampled_from(["inference.json", "metadata.json", "train.json"])


@given(name=configs, changed=changes)
@settings(max_examples=SHORT, **MODEST)
def test_any_config(place, name, changed):
    one_config(name, changed, place)


@at_length(0.1)
@given(name=configs, changed=changes)
def test_any_config_at_length(place, name, changed):
    one_config(name, changed, place)
