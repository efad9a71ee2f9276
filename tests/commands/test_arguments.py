"""What is typed is what a command gets; what cannot be meant is refused: one line, exit code 2."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perforated_monai.commands import main as door
from perforated_monai.commands.arguments import Count, Share
from perforated_monai.commands.main import COMMANDS, main

ODD = [
    *("scans #2", "2025_01_31", "1.10", "out,1", "None", "True", "[a]", "{a: 1}", "0x1F", "1e5"),
    *(
        "'quoted'",
        '"a"',
        "a=b",
        "ä ö",
        "-",
        "-5",
        "()",
        "b''",
        "\\n",
        "\udcff",
        "a\nb",
        "$HOME",
        "#",
    ),
]


@pytest.fixture
def asked(monkeypatch) -> list[dict]:
    """What a command with every kind of parameter was given."""
    got: list[dict] = []

    def command(
        source: str,
        output: str,
        *,
        report: str = "",
        tta: bool = False,
        resume: bool = True,
        workers: Count | None = None,
        overlap: Share | None = None,
    ) -> int:
        """Do."""
        got.append({k: v for k, v in locals().items() if k != "got"})
        return 0

    monkeypatch.setitem(door.COMMANDS, "segment", command)
    return got


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and said.startswith("perforated_monai: "), said
    return said


@pytest.mark.parametrize("word", ODD)
def test_names_arrive_as_typed(word: str, asked: list[dict]) -> None:
    assert main(["segment", word, "--output", word, f"--report={word}"]) == 0
    assert (asked[0]["source"], asked[0]["output"], asked[0]["report"]) == (word, word, word)


@settings(max_examples=60, deadline=None, database=None)
@given(st.text(st.characters(blacklist_characters="\0"), min_size=1))
def test_any_text_arrives_as_typed(word: str) -> None:
    got: list[tuple[str, ...]] = []

    def command(source: str, output: str, report: str = "") -> int:
        got.append((source, output, report))
        return 0

    before, door.COMMANDS["segment"] = door.COMMANDS["segment"], command
    try:
        assert main(["segment", f"--report={word}", "--", word, "out"]) == 0
    finally:
        door.COMMANDS["segment"] = before
    assert got == [(word, "out", word)]


@pytest.mark.parametrize(
    ("words", "tta", "resume"),
    [
        ([], False, True),
        (["--tta"], True, True),
        (["--notta", "--noresume"], False, False),
        (["--no-tta", "--no-resume"], False, False),
        (["--tta=true", "--resume=false"], True, False),
        (["--tta=False", "--resume=True"], False, True),
        (["-t"], True, True),
    ],
)
def test_a_flag_is_on_or_off(words, tta, resume, asked) -> None:
    assert main(["segment", *words, "a", "b"]) == 0
    assert (asked[0]["tta"], asked[0]["resume"]) == (tta, resume)
    assert type(asked[0]["tta"]) is bool


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tta", "false"], "--tta=true or --tta=false; got '--tta false'"),
        (["--tta", "0"], "got '--tta 0'"),
        (["--tta", "NO"], "got '--tta NO'"),
        (["--tta=1"], "got '--tta=1'"),
        (["--notta=true"], "got '--notta=true'"),
        (["--tta="], "an empty argument"),
        (["--tta", "--notta"], "--tta twice"),
        (["--workers", "abc"], "--workers must be a whole number of 1 or more; got 'abc'"),
        (["--workers", "-5"], "--workers must be a whole number of 1 or more; got '-5'"),
        (["--workers", "1_0"], "got '1_0'"),
        (["--workers", "2.0"], "got '2.0'"),
        (["--workers", "٣"], "got '٣'"),
        (["--workers", "True"], "got 'True'"),
        (["--workers", "9" * 5000], "--workers must be"),
        (["--overlap", "nan"], "--overlap must be a number from 0 to below 1; got 'nan'"),
        (["--overlap", "inf"], "got 'inf'"),
        (["--overlap", "1"], "got '1'"),
        (["--overlap", "1e400"], "got '1e400'"),
        (["--overlap=-0.1"], "got '-0.1'"),
        (["--workers"], "--workers needs a value"),
        (["--report", "--tta"], "--report needs a value; --tta is a flag"),
        (["--source", "x"], "got 'b' as well"),
        (["c"], "got 'c' as well"),
        (["--report", "x", "--report", "x"], "--report twice"),
        (["--repor", "x"], "no flag --repor. Known: --report."),
        (["-q"], "written ./-q"),
        (["--", "c"], "got 'c' as well"),
        (["--report", "a\0b"], "no name holds a NUL"),
        (["--5"], "no flag '--5'"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, said, asked, capsys) -> None:
    assert said in refused(["segment", "a", "b", *words], capsys)
    assert asked == []


def test_what_is_missing_is_named(asked, capsys) -> None:
    assert "segment needs output" in refused(["segment", "a"], capsys)
    assert "segment needs source and output" in refused(["segment", "--tta"], capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["phantom", "{tmp}/p", "--cases", "99999999999"], "from 1 to 100,000; got '99999999999'"),
        (["phantom", "{tmp}/p", "--seed", "9" * 30], "--seed must be a whole number from 0"),
        (["phantom", "{tmp}/p", "--cases", "1e400"], "--cases must be a whole number"),
        (["check", "{tmp}", "--workers", "-5"], "--workers must be a whole number of 1 or more"),
        (["check", "{tmp}", "--workers", "abc"], "--workers must be a whole number of 1 or more"),
        (["segment", "a", "b", "--bundle", "c", "--overlap", "nan"], "--overlap must be a number"),
        (["segment", "a", "b", "--bundle", "c", "--workers", "0"], "--workers must be"),
        (
            ["segment", "a", "b", "--bundle", "c", "--allow-phantom-weights", "false"],
            "got '--allow-phantom-weights false'",
        ),
        (["study", "run", "f", "--budget-minutes", "nan"], "--budget-minutes must be a number"),
        (["study", "run", "f", "--workers", "0"], "--workers must be"),
        (["verify", "a", "--trust", "no"], "got '--trust no'"),
        (["efficiency", "a", "--out", "b", "--rounds", "1.5"], "--rounds must be a whole number"),
    ],
)
def test_every_command_checks_where_words_enter(words, said, tmp_path, capsys) -> None:
    assert said in refused([word.format(tmp=tmp_path) for word in words], capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_gets_the_very_name_that_was_typed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("2025_01_31", "1.10", "out,1", "None", "p #2", "[a]"):
        assert main(["phantom", name, "--cases", "1"]) == 0
        assert (tmp_path / name / "imagesTr").is_dir()
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("ask", [["--help"], ["-h"], ["--", "--help"], ["a", "--help"]])
@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_page_of_help(name: str, ask: list[str], capsys) -> None:
    assert main([name, *ask]) == 0
    shown = "".join(capsys.readouterr())
    assert "SYNOPSIS" in shown and COMMANDS[name].__doc__.splitlines()[0] in shown
