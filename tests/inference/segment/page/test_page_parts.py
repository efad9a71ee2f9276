"""Behind the page: scores, histograms, pictures, outlines and reviews."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from helpers.segment_bundle import save
from perforated_monai.errors import UserError
from perforated_monai.inference.segment.page.histogram import WIDTH, make_histogram
from perforated_monai.inference.segment.page.outline import outline
from perforated_monai.inference.segment.page.picture import LARGEST, draw_planes
from perforated_monai.inference.segment.page.png import grey_png
from perforated_monai.inference.segment.page.results import read_results
from perforated_monai.inference.segment.page.review import COLUMNS, read_reviews
from perforated_monai.inference.segment.page.write import _rendered
from perforated_monai.inference.segment.volumes import measure_volumes, read_volumes


def test_robust_z_of_known_volumes(tmp_path):
    files = []
    for k, length in enumerate((1, 2, 3, 4, 10)):
        values = np.zeros((10, 4, 5), "u1")
        values[:length, :2, :] = 2
        files.append(save(tmp_path / f"{k}.nii.gz", values, np.diag([10, 10, 10, 1])))
    found = measure_volumes(files, {1: "none", 2: "some"})
    volumes = read_volumes(json.loads(json.dumps(found)))
    some = volumes["some"]  # 10, 20, 30, 40 and 100 mL: median 30, deviations 20 10 0 10 70
    assert some.cases == 5 and some.percentiles_ml[50] == 30 and some.mad_ml == 10
    assert some.robust_z(30) == 0 and some.robust_z(100) == pytest.approx(0.6745 * 7)
    assert [some.robust_z(ml) for ml in some.limits_ml] == pytest.approx([-3.5, 3.5])
    assert volumes["none"].robust_z(5) is None  # no spread: nothing can be said
    assert read_volumes(None) == {}
    with pytest.raises(UserError, match="what measure_volumes gives"):
        read_volumes({"some": {"cases": 1}})


def test_the_volumes_of_the_shipped_bundle_are_those_of_its_labels(hippocampus, repo):
    metadata = repo / "bundles/hippocampus_mri_dendritic/configs/metadata.json"
    content = json.loads(metadata.read_text())
    names = content["network_data_format"]["outputs"]["pred"]["channel_def"]
    labels = {int(k): v for k, v in names.items() if k != "0"}
    files = sorted((hippocampus / "labelsTr").glob("*.nii.gz"))
    assert measure_volumes(files, labels) == content["segment"]["training_volumes"]


def test_a_histogram_counts_every_case_and_marks_outliers(tmp_path):
    values = {f"c{k}": 30.0 + k for k in range(8)} | {"far": 200.0, "none": 0.0}
    training = read_volumes(
        {
            "s": {
                "cases": 9,
                "mad_ml": 10,
                "percentiles_ml": {
                    **{"0": 10, "5": 12, "25": 22, "50": 30},
                    **{"75": 41, "95": 80, "100": 100},
                },
            }
        }
    )["s"]
    drawn = make_histogram("s", values, training)
    counts = [int(re.search(r": (\d+) case", bar.text)[1]) for bar in drawn.bars]
    assert sum(counts) == 10 and max(counts) == drawn.highest
    assert [(case, round(z, 1)) for _, case, z in drawn.outliers] == [("far", 11.5)]
    order = [drawn.training[f"p{p}"] for p in (0, 5, 25, 50, 75, 95, 100)]
    assert order == sorted(order) and order[0] > drawn.ticks[0][0] and order[-1] < WIDTH
    assert [text for _, text in drawn.limits] == ["z +3.5"]  # −22 mL is no volume
    plain = make_histogram("s", values, None)
    assert not plain.outliers and not plain.training and not plain.limits
    assert make_histogram("s", {"a": 0.0}, None).highest == 1


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 96)])
def test_png_gives_the_pixels_again(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype("u1")
    pixels[shape[0] // 2 :] //= 64
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(grey_png(pixels)))), pixels)


def area(path: str) -> float:
    """Of closed paths, by Gauss' formula, in pixels; holes count minus."""
    total = 0.0
    for part in path.split("z")[:-1]:
        numbers = np.array([int(n) for n in re.findall(r"-?\d+", part)]).reshape(-1, 2)
        points = np.cumsum(numbers, 0)
        x, y = points.T.astype(float)
        total += float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2
    return total / 4


def test_an_outline_goes_around_its_pixels():
    mask = np.zeros((9, 12), bool)
    assert outline(mask) == ""
    mask[2:7, 3:10] = True
    # Every corner is cut off by an eighth of a pixel.
    assert area(outline(mask)) == pytest.approx(35 - 4 / 8)
    mask[4, 5] = False  # a hole of one pixel is a diamond of half of it
    assert area(outline(mask)) == pytest.approx(35 - 4 / 8 - 0.5)
    assert outline(mask).count("M") == 2
    diagonal = np.eye(4, dtype=bool)
    assert area(outline(diagonal)) == pytest.approx(2)
    noise = np.random.default_rng(0).random((20, 30)) > 0.5
    assert abs(area(outline(noise)) - noise.sum()) < noise.sum() * 0.3


def test_planes_have_their_size_side_and_grid():
    image = np.zeros((20, 30, 10), "f4")
    image[15:] = 1  # bright on the right
    labels = np.zeros(image.shape, "u1")
    labels[12:18, 10:20, 2:8] = 1
    affine = np.diag([-1.0, 1, 3, 1])  # the file's first axis runs to the left
    planes = json.loads(draw_planes(image, labels, affine, [1, 2]))
    assert [p["size"] for p in planes] == [[30, 30], [20, 30], [20, 30]]
    assert [p["letters"] for p in planes] == ["PAIS", "LRIS", "LRPA"]
    assert all(p["outlines"][0] and not p["outlines"][1] for p in planes)
    numbers = re.match(r"M(\d+) (\d+)", planes[2]["outlines"][0])
    assert int(numbers[1]) < 20  # right in the file is left in the patient: the left half


def test_a_large_noisy_volume_fits_its_share_of_the_page():
    """A thousand such cases stay below 40 MB; the picture keeps the structures."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(200, 180, 40)).astype("f4")
    labels = np.zeros(image.shape, "u1")
    labels[50:150, 40:120, 5:35] = rng.integers(0, 3, (100, 80, 30))
    text = draw_planes(image, labels, np.eye(4), [1, 2])
    assert len(text) <= LARGEST
    assert all(all(p["outlines"]) for p in json.loads(text))


def test_a_row_of_the_table_takes_few_bytes(done):
    """What a case takes beside its planes: 30 kB of planes and this stay below 40 kB."""
    from dataclasses import replace

    results = read_results(done.masks)
    drawings = {case.name: ("[]", "") for case in results.cases}
    one = len(_rendered(results, drawings, {}))
    case = results.done[0]
    more = [replace(case, name=f"a_long_name_of_a_case_{k:04d}.nii.gz") for k in range(100)]
    drawings |= {case.name: ("[]", "") for case in more}
    many = len(_rendered(replace(results, cases=[*results.cases, *more]), drawings, {}))
    assert (many - one) / 100 < 2000 and LARGEST + 2000 < 40_000


def test_reviews_are_read_and_those_of_another_run_refused(tmp_path):
    masks = {"a": "1" * 64, "=b": "2" * 64}

    def read(*rows: str):
        path = tmp_path / "review.csv"
        path.write_text("\r\n".join([",".join(COLUMNS), *rows, ""]), encoding="utf-8")
        return read_reviews(path, "run", masks)

    found = read(f"run,a,accepted,,{masks['a']}", f'run,\'=b,flagged,"\'=1, ""x""",{masks["=b"]}')
    assert found["a"].verdict == "accepted" and found["=b"].comment == '=1, "x"'
    for row in (f"other,a,accepted,,{masks['a']}", "run,a,accepted,,3", "run,c,accepted,,"):
        with pytest.raises(UserError, match="review of another run"):
            read(row)
    with pytest.raises(UserError, match="row 2 has not"):
        read("run,a,perhaps,,")
    (tmp_path / "review.csv").write_text("case,status\na,done\n")
    with pytest.raises(UserError, match="must have the columns"):
        read_reviews(tmp_path / "review.csv", "run", masks)
    with pytest.raises(UserError, match="cannot be read"):
        read_reviews(tmp_path / "none.csv", "run", masks)
