"""What people who join meet first: workflow, hooks, constraints and changelog agree with make."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tomllib
import yaml
from packaging.requirements import Requirement

from perforated_monai import __version__

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.M)
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def recipe(target: str) -> list[str]:
    """The commands of a make target."""
    (lines,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.M)
    return [line.strip() for line in lines.splitlines()]


def named(requirements: list[str]) -> set[str]:
    """Distribution names, without ours."""
    return {Requirement(text).name for text in requirements} - {PROJECT["name"]}


def test_the_hooks_are_the_linters_of_make_lint() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert [hook["entry"] for hook in hooks] == recipe("lint")
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in hooks)


def test_the_workflow_runs_make_on_every_python_that_make_takes() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert set(jobs) == {"lint", "tests", "macos"}
    for job in jobs.values():
        (command,) = [step["run"] for step in job["steps"] if "run" in step]
        assert recipe(re.match(r"make (\S+) PYTHON=python\b", command)[1])
    assert jobs["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    assert "(3, 11) <= v < (3, 13)" in MAKEFILE
    assert [name for name, job in jobs.items() if job.get("continue-on-error")] == ["macos"]


def test_the_row_without_growth_names_folders_that_exist() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    folders = re.search(r'TESTS="(.+)"', jobs["macos"]["steps"][-1]["run"])[1].split()
    assert "tests/growth" not in folders
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_every_package_has_its_tested_version() -> None:
    extras = PROJECT["optional-dependencies"]
    wanted = named([*PROJECT["dependencies"], *(r for extra in extras.values() for r in extra)])
    assert wanted <= set(CONSTRAINTS)
    assert len(CONSTRAINTS) == len(set(CONSTRAINTS))


def test_make_installs_what_the_extras_list() -> None:
    extras = PROJECT["optional-dependencies"]
    listed = re.search(r"TEST_PACKAGES := ((?:.*\\\n)*.*)", MAKEFILE)[1].replace("\\", " ")
    assert set(listed.split()) == named(extras["export"] + extras["dev"])


def test_the_changelog_has_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    titles = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", text, re.M)
    assert titles[0] == ("Unreleased", "")
    assert all(date for _, date in titles[1:])
    assert __version__ in dict(titles)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda p: p.stem)
def test_issue_templates_are_forms(template: Path) -> None:
    form = yaml.safe_load(template.read_text())
    if template.stem == "config":
        assert form == {"blank_issues_enabled": True}
        return
    assert form["name"] and form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) > 2
    assert all(field["attributes"]["label"] for field in fields)


def test_there_are_templates() -> None:
    assert {p.stem for p in TEMPLATES} == {"bug", "feature", "study", "config"}
