"""Patients, not volumes, are split; a patient on both sides is refused in any manifest."""

import json
from pathlib import Path

import pytest

from helpers.msd import fill, image_of, label_of, problems, save
from perforated_monai.commands.main import main
from perforated_monai.data.lists import datalist
from perforated_monai.data.manifest import Manifest, load_manifest
from perforated_monai.data.patients import Patients
from perforated_monai.data.prepare import describe, write_manifest
from perforated_monai.data.splits import kfold
from perforated_monai.errors import UserError

PATTERN = r"study_(p\d+)"


def fill_visits(root: Path, patients: int = 11, where: str = "Tr", first: int = 0) -> Path:
    """Two visits of every patient with an even number, one of the others."""
    for number in range(first, first + patients):
        for visit in ("a", "b")[: 2 - number % 2]:
            case = f"study_p{number:02d}_{visit}"
            seed = 2 * number + (visit == "b")
            save(root / f"images{where}/{case}.nii.gz", image_of(seed))
            save(root / f"labels{where}/{case}.nii.gz", label_of(seed))
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return fill_visits(tmp_path / "data")


def parts_of(manifest: Manifest) -> dict[str, set[str]]:
    """Patient -> the parts that hold volumes of it."""
    places: dict[str, set[str]] = {}
    for k, ids in enumerate([*manifest.folds, manifest.test]):
        for case in ids:
            places.setdefault(manifest.patients[case], set()).add(str(k))
    return places


def test_volumes_of_a_patient_stay_together_by_the_rule_over_patients(data, tmp_path):
    manifest = write_manifest(data, tmp_path / "m.json", "visits", patient=PATTERN)
    assert all(len(parts) == 1 for parts in parts_of(manifest).values())
    outer = kfold(f"p{n:02d}" for n in range(11))
    assert {manifest.patients[case] for case in manifest.test} == set(outer[0])
    inner = kfold(patient for fold in outer[1:] for patient in fold)
    assert [{manifest.patients[c] for c in ids} for ids in manifest.folds] == list(map(set, inner))
    assert problems(data, manifest) == []


def test_without_patients_the_same_folder_mixes_them(data, tmp_path):
    """So the pattern is what keeps them together, not luck."""
    manifest = write_manifest(data, tmp_path / "m.json", "visits")
    split = {k: {c[:9] for c in ids} for k, ids in enumerate([*manifest.folds, manifest.test])}
    assert sum(map(len, split.values())) > 11
    assert manifest.patients == {} and "patient" not in (tmp_path / "m.json").read_text()


def test_patients_are_written_read_and_hashed(data, tmp_path):
    manifest = write_manifest(data, tmp_path / "m.json", "visits", patient=PATTERN)
    read = load_manifest(tmp_path / "m.json")
    assert read == manifest and read.hash() == manifest.hash()
    assert read.patients["study_p04_b"] == "p04"
    bare = write_manifest(data, tmp_path / "bare.json", "visits")
    assert bare.hash() != manifest.hash()
    assert "patients" in describe(manifest, data) and "patients" not in describe(bare, data)


def test_a_table_names_patients_too(data, tmp_path):
    table = tmp_path / "people.csv"
    ids = sorted(path.name[: -len(".nii.gz")] for path in (data / "imagesTr").iterdir())
    table.write_text("case,age,subject\n" + "".join(f"{case},40,{case[6:9]}\n" for case in ids))
    by_table = write_manifest(data, tmp_path / "a.json", "visits", patient=f"{table}:subject")
    by_pattern = write_manifest(data, tmp_path / "b.json", "visits", patient=PATTERN)
    assert by_table == by_pattern


def test_a_table_of_file_names_is_one_of_cases(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("case,patient\na.nii.gz,1\nb.nii,1\nc,2\n")
    assert Patients(str(table)).of(["a", "b", "c"]) == {"a": "1", "b": "1", "c": "2"}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"scan_(p\d+)", "names none for 17 of 17"),
        (r"study_(p0\d)", r"names none for 2 of 17: study_p10_a, study_p10_b"),
        ("study", "gives all 17 cases the patient 'study'"),
        (".*", "takes the whole id of every case"),
        ("study_(p", "is no regular expression"),
        (r"(study)_(p\d+)", "must have one group"),
        ("nowhere.csv", "cannot be read"),
    ],
)
def test_a_pattern_that_tells_no_patients_is_refused_in_one_line(
    pattern, message, data, tmp_path, capsys
):
    with pytest.raises(UserError, match=message):
        write_manifest(data, tmp_path / "m.json", "visits", patient=pattern)
    arguments = ["--root", str(data), "--write", str(tmp_path / "m.json"), "--patient", pattern]
    assert main(["prepare", *arguments]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "m.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,patient\n", "must have the columns case and patient; it has id, patient"),
        ("case,patient\na,1\na,2\n", "must name one patient of case a"),
        ("case,patient\na,1\nb,\n", "names none for 1 of 2: b"),
    ],
)
def test_a_broken_table_is_refused(text, message, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text(text)
    with pytest.raises(UserError, match=message):
        Patients(str(table)).of(["a", "b"])


def test_brackets_of_a_pattern_reach_it(data, tmp_path):
    """The command line's parser would make a list of them."""
    out = tmp_path / "m.json"
    arguments = ["--root", str(data), "--write", str(out), "--patient", "[p][0-9][0-9]"]
    assert main(["prepare", *arguments, "--no_test"]) == 0
    manifest = load_manifest(out)
    assert manifest.test == [] and manifest.patients["study_p04_b"] == "p04"


def test_patients_without_a_manifest_to_write_are_wrong_usage(data, capsys):
    assert main(["prepare", "x.json", "--root", str(data), "--patient", PATTERN]) == 2
    assert "needs --write" in capsys.readouterr().err


def test_a_patient_in_the_test_folder_too_is_refused(data, tmp_path):
    save(data / "imagesTs/study_p03_b.nii.gz", image_of(90))
    save(data / "labelsTs/study_p03_b.nii.gz", label_of(90))
    message = r"patient p03 .* imagesTr \(study_p03_a\) and in imagesTs \(study_p03_b\)"
    with pytest.raises(UserError, match=message):
        write_manifest(data, tmp_path / "m.json", "visits", patient=PATTERN)


def test_too_few_patients_are_refused_although_volumes_suffice(tmp_path):
    root = fill_visits(tmp_path / "data", patients=8)  # 12 volumes
    with pytest.raises(UserError, match=r"at least 10 patients; .* has 8 in"):
        write_manifest(root, tmp_path / "m.json", "visits", patient=PATTERN)
    few = fill_visits(tmp_path / "few", patients=4)
    with pytest.raises(UserError, match=r"5 folds need at least 5 patients; .* has 4 in"):
        write_manifest(few, tmp_path / "m.json", "visits", test=False, patient=PATTERN)


@pytest.fixture
def leaked(data, tmp_path) -> Path:
    """A manifest that someone else made: volumes were split, and patients written beside them."""
    path = tmp_path / "leaked.json"
    write_manifest(data, path, "visits")
    content = json.loads(path.read_text())
    for case, entry in content["cases"].items():
        entry["patient"] = case[6:9]
    path.write_text(json.dumps(content))
    return path


def test_check_and_training_refuse_a_patient_on_both_sides(leaked, data, capsys):
    assert main(["check", str(data), "--manifest", str(leaked), "--headers"]) == 1
    assert "error   patient-leak" in capsys.readouterr().out
    for part in ("train", "validation", "test"):
        with pytest.raises(UserError, match=r"volumes of one patient in two parts .* patient p\d"):
            datalist(data, leaked, part)


def test_a_manifest_names_all_patients_or_none(leaked):
    content = json.loads(leaked.read_text())
    del content["cases"]["study_p01_a"]["patient"]
    leaked.write_text(json.dumps(content))
    with pytest.raises(UserError, match="patient of every case or of none; 'study_p01_a' has none"):
        load_manifest(leaked)
    content["cases"]["study_p01_a"]["patient"] = 7
    leaked.write_text(json.dumps(content))
    with pytest.raises(UserError, match="'study_p01_a' its patient as a text; got 7"):
        load_manifest(leaked)


def test_spacing_is_expected_only_where_nearly_all_cases_agree(tmp_path):
    """Fault: with 16 of 30 volumes alike, the other 14 were named as outliers."""
    import numpy as np

    root = fill(tmp_path / "data")
    for case in range(5):
        for folder, make in (("imagesTr", image_of), ("labelsTr", label_of)):
            file = root / f"{folder}/case_{case:02d}.nii.gz"
            save(file, make(case), np.diag([2.0, 2.0, 1.0, 1.0]))
    manifest = write_manifest(root, tmp_path / "m.json", "mixed")
    assert manifest.spacing_mm is None
