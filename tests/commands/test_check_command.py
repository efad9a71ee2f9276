"""`check` and `prepare` on the command line: exit codes, output, JSON, the page."""

import base64
import html.parser
import json
import os
import re
import struct
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from helpers.harness import in_child
from helpers.msd import fill, image_of, save
from perforated_monai.commands.check import rule_lists
from perforated_monai.commands.main import main
from perforated_monai.data.check.pictures import histogram_svg, slice_png
from perforated_monai.data.prepare import write_manifest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def data(tmp_path) -> Path:
    root = fill(tmp_path / "data")
    write_manifest(root, root / "manifest.json", "tiny")
    return root


def spoil(root: Path) -> None:
    voxels = image_of(3)
    voxels[0] = np.nan
    save(root / "imagesTr/case_03.nii.gz", voxels)
    save(root / "imagesTr/<b>new.nii.gz", image_of(50))


def test_exit_code_says_whether_there_is_an_error(data, capsys):
    assert main(["check", str(data)]) == 0
    assert "12 of 12 cases of tiny: 0 errors, 0 warnings, 0 notes" in capsys.readouterr().out
    spoil(data)
    assert main(["check", str(data)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["error", "error", "warning"]
    assert "imagesTr/case_03.nii.gz must hold finite numbers only" in "".join(lines)
    assert str(data) not in "".join(lines)


def test_a_warning_alone_is_no_failure(data, capsys):
    save(data / "imagesTr/new.nii.gz", image_of(50))
    assert main(["check", str(data)]) == 0
    assert "extra: imagesTr/new.nii.gz" in capsys.readouterr().out


def test_headers_only(data, capsys):
    spoil(data)
    assert main(["check", str(data), "--headers"]) == 0
    assert "finite" not in capsys.readouterr().out


def test_json_copy_holds_every_finding(data, tmp_path, capsys):
    spoil(data)
    assert main(["check", str(data), "--json", str(tmp_path / "found.json")]) == 1
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["counts"] == {"error": 2, "warning": 1, "note": 0}
    assert found["manifest"]["name"] == "tiny" and len(found["manifest"]["sha256"]) == 64
    lines = capsys.readouterr().out.splitlines()
    assert len(found["findings"]) == len(lines) - 1
    for finding, line in zip(found["findings"], lines, strict=False):
        assert all(finding[key] in line for key in ("rule", "file", "value", "cure"))
    assert str(tmp_path) not in (tmp_path / "found.json").read_text()


def test_rules_are_listed(capsys):
    assert main(["check", "--list-rules"]) == 0
    out = capsys.readouterr().out
    for meaning, rules in rule_lists().items():
        assert f"\n{meaning}\n" in f"\n{out}"
        assert all(f"  {rule.name} " in out and rule.message in out for rule in rules)


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["check"], 2, "check needs a folder"),
        (["check", "{tmp}", "--manifst", "x"], 2, "no flag --manifst"),
        (["check", "{tmp}/nowhere"], 1, "nowhere does not exist"),
        (["check", "{data}/imagesTr"], 1, "must hold volumes in imagesTr and labelsTr"),
        (["check", "{data}", "--manifest", "nothing"], 1, "nothing does not exist"),
        (["check", "{data}", "--json", "{tmp}/no/f.json"], 1, "its folder is missing"),
        (["prepare", "--root", "{data}"], 2, "prepare needs"),
        (["prepare", "phantom", "--root", "{tmp}/nowhere"], 1, "nowhere cannot be read"),
    ],
)
def test_wrong_use_is_one_line(words, code, expected, data, tmp_path, capsys):
    words = [word.format(tmp=tmp_path, data=data) for word in words]
    assert main(words) == code
    err = capsys.readouterr().err
    assert expected in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("command", [["check"], ["prepare", "--root"]])
def test_a_manifest_of_an_unknown_schema_is_refused(command, data, capsys):
    content = json.loads((data / "manifest.json").read_text()) | {"schema_version": 99}
    (data / "manifest.json").write_text(json.dumps(content))
    assert main([*command, str(data), "--manifest", str(data / "manifest.json")]) == 1
    assert "must have schema_version 1; got 99" in capsys.readouterr().err


def test_a_folder_without_rights_is_refused(tmp_path):
    def as_nobody() -> None:
        with (tmp_path / "err").open("w") as sys.stderr:
            if os.geteuid() == 0:  # root may read everything
                os.setuid(65534)
            raise SystemExit(main(["check", open_to_all]))

    # Outside pytest's folders, which nobody but their owner may enter.
    with tempfile.TemporaryDirectory() as open_to_all:
        fill(Path(open_to_all))
        Path(open_to_all).chmod(0o755)
        (Path(open_to_all) / "imagesTr").chmod(0)
        assert in_child(as_nobody) == 1
        (Path(open_to_all) / "imagesTr").chmod(0o755)
    assert "imagesTr cannot be read: Permission denied" in (tmp_path / "err").read_text()


def test_prepare_verifies_and_prints_the_split(data, capsys):
    file = str(data / "manifest.json")
    assert main(["prepare", "--root", str(data), "--manifest", file]) == 0
    out = capsys.readouterr().out
    assert "fold 4" in out and "0 errors" in out
    spoil(data)
    assert main(["prepare", file, "--root", str(data)]) == 1


def test_prepare_writes_a_manifest_of_own_data(data, tmp_path, capsys):
    words = ["prepare", "--root", str(data), "--write", str(tmp_path / "mine.json"), "--name", "x"]
    assert main(words) == 0
    assert main(["check", str(data), "--manifest", str(tmp_path / "mine.json")]) == 0
    assert json.loads((tmp_path / "mine.json").read_text())["name"] == "x"
    assert "12 of 12 cases of x" in capsys.readouterr().out


@pytest.mark.parametrize("cases", [3, 5, 10])
def test_phantoms_get_a_manifest_that_check_accepts(cases, tmp_path, capsys):
    out = tmp_path / "p"
    assert main(["phantom", "--out", str(out), "--cases", str(cases)]) == 0
    assert (out / "manifest.json").exists() == (cases >= 5)
    assert main(["check", str(out)]) == 0


# --- the page


class Links(html.parser.HTMLParser):
    """Collects what a browser would fetch, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [value for key, value in attrs if key in ("src", "href", "data")]

    def handle_data(self, data):
        self.text += data


def page(root: Path, tmp_path: Path) -> tuple[str, Links]:
    main(["check", str(root), "--report", str(tmp_path / "page.html")])
    text = (tmp_path / "page.html").read_text()
    links = Links()
    links.feed(text)
    return text, links


def test_the_page_needs_no_network_and_shows_everything(data, tmp_path, capsys):
    spoil(data)
    text, links = page(data, tmp_path)
    assert all(source.startswith("data:image/png;base64,") for source in links.fetched)
    assert len(links.fetched) == 12
    assert "script" not in links.tags and "link" not in links.tags
    assert not re.search(r"https?://|url\(|@import", text)
    assert links.tags.count("svg") == 6 and links.tags.count("figure") == 12
    assert "imagesTr/<b>new.nii.gz" in links.text, "names are text, never markup"
    assert "must hold finite numbers only" in links.text
    assert str(tmp_path) not in text


def test_the_page_of_headers_only_has_no_slices(data, tmp_path, capsys):
    main(["check", str(data), "--headers", "--report", str(tmp_path / "page.html")])
    assert "No voxels were read" in (tmp_path / "page.html").read_text()


def test_the_page_is_whole_or_absent(data, tmp_path, capsys):
    assert main(["check", str(data), "--report", str(tmp_path / "no/page.html")]) == 1
    assert list(tmp_path.glob("*.html")) == []


def test_a_slice_is_upright_and_outlined():
    image = np.zeros((6, 4), np.float32)
    image[5, 3] = 9  # last x, last y: top right
    label = np.zeros((6, 4), np.uint8)
    label[0:2, 0:2] = 2
    pixels = decode(slice_png(image, label))
    assert pixels.shape == (12, 18, 3)
    assert pixels[0, -1].tolist() == [255, 255, 255]
    assert pixels[-1, 0].tolist() == [86, 180, 233]
    assert pixels[-3, 2].tolist() == [0, 0, 0], "inside the outline the image shows"


@pytest.mark.parametrize("other", [None, np.ones((5, 4), np.uint8)], ids=["none", "other shape"])
def test_a_slice_without_a_fitting_label_has_no_outline(other):
    pixels = decode(slice_png(np.full((6, 4), np.nan, np.float32), other))
    assert (pixels == pixels[..., :1]).all()


def test_histograms_count_every_value():
    for values in (np.array([1.0] * 7), np.array([3, 4, 4, 9]), np.linspace(0, 1, 99)):
        counts = re.findall(r"<title>(\d+)</title>", histogram_svg(values, "x"))
        assert sum(map(int, counts)) == len(values)


def decode(text: str) -> np.ndarray:
    """An RGB PNG without filters."""
    data = base64.b64decode(text)
    width, height = struct.unpack(">II", data[16:24])
    start = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[start - 4 : start])
    rows = np.frombuffer(zlib.decompress(data[start + 4 : start + 4 + length]), np.uint8)
    return rows.reshape(height, 1 + 3 * width)[:, 1:].reshape(height, width, 3)
