"""What there is to segment: files, folder trees, DICOM series, and lists of several channels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePath

from ...errors import UserError
from ..dicom.scattered import scattered
from .case_list import LISTS, listed_cases
from .earlier import Masks, is_output
from .found import Case as Case
from .found import file_case
from .found import shown as shown
from .walk import Walk


def find_cases(
    source: str | Path,
    output: str | Path,
    anonymous: bool = False,
    channels: Mapping[int, str] | None = None,
) -> tuple[list[Case], list[str]]:
    """Cases of INPUT in the order of their names, and lines about what was left out.

    Every path of a case is absolute: some libraries change the working folder while they load.

    Args:
        source: a ``.nii`` or ``.nii.gz`` file, a folder tree of them and of DICOM series, or a
            ``.csv`` or ``.json`` list (a column, or an entry of ``image``, a channel).
        output: folder of the masks; never searched.
        anonymous: name cases by a hash of their relative path, and masks too.
        channels: the bundle's names of its input channels, which a list must not contradict.

    Raises:
        UserError: a missing input, nothing to segment in it, an unusable list, or a folder or file
            of masks.
    """
    if not str(source) or not str(output):
        msg = "input and output must be named; one of them is empty. Name both."
        raise UserError(msg)
    given, source, output = source, Path(source).absolute(), Path(output).absolute()
    left_out: list[str] = []
    if source.is_dir():
        if os.path.realpath(source) == os.path.realpath(output):
            msg = (
                f"the output must not be the input folder {given}: masks would be taken for scans."
            )
            raise UserError(msg)
        if is_output(source):
            msg = (
                f"{given} is the output folder of an earlier run: its masks would be taken for "
                "scans. Give the folder of the scans."
            )
            raise UserError(msg)
        walk = Walk(source, Path(os.path.realpath(output)))
        cases = list(walk.cases())
        left_out = walk.left_out(anonymous)
    elif not source.exists():
        msg = f"{given} does not exist. Give a file, a folder, or a .csv or .json list."
        raise UserError(msg)
    elif source.name.lower().endswith(LISTS):
        cases = listed_cases(source, channels)
    else:
        cases = [file_case(source, PurePath(source.name))]
    if not cases:
        more = f" Left out: {'; '.join(left_out)}." if left_out else ""
        msg = f"{given} holds no .nii, .nii.gz or DICOM series. Correct the path.{more}"
        raise UserError(msg)
    masks = Masks()
    cases = _refuse_scattered([_refuse_mask(case, masks) for case in cases], anonymous)
    if anonymous:
        cases = [_anonymous(case) for case in cases]
    return _named_apart(_refuse_collisions(cases)), left_out


def _refuse_mask(case: Case, masks: Masks) -> Case:
    """A case whose only file an earlier run has written is none; a channel may be a mask."""
    if not case.problem and len(case.files) == 1 and case.files[0] in masks:
        problem = "it is a mask of an earlier run. Give the scan, or move it out of that folder."
        return replace(case, problem=problem)
    return case


def _refuse_scattered(cases: list[Case], anonymous: bool) -> list[Case]:
    """Folders that hold a part of a series each are refused: a part gives half a mask."""
    folders = {case.target: case.files for case in cases if case.dicom and not case.problem}
    others = scattered(folders)
    checked = []
    for case in cases:
        if case.dicom and case.target in others:
            place = "another folder" if anonymous else shown(PurePath(others[case.target]))
            problem = f"slices of its series also lie in {place}. Put them into one folder."
            case = replace(case, problem=problem)
        checked.append(case)
    return checked


def _anonymous(case: Case) -> Case:
    name = hashlib.sha256(case.target.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return replace(case, name=name, target=name)


def _refuse_collisions(cases: list[Case]) -> list[Case]:
    """Two cases whose masks would have one name are both refused; sorted by name."""
    by_target: dict[str, list[Case]] = {}
    for case in cases:
        by_target.setdefault(case.target, []).append(case)
    checked = []
    for case in cases:
        rivals = [c.name for c in by_target[case.target] if c is not case]
        if rivals and not case.problem:
            problem = f"its mask would have the name of that of {rivals[0]}. Rename or move one."
            if rivals[0] == case.name:
                problem = f"{len(rivals) + 1} cases have this name. Give each a name of its own."
            case = replace(case, problem=problem)
        checked.append(case)
    return sorted(checked, key=lambda c: c.name)


def _named_apart(cases: list[Case]) -> list[Case]:
    """A row a case: those of one name get a number."""
    taken: set[str] = {case.name for case in cases}
    seen: set[str] = set()
    named = []
    for case in cases:
        name, number = case.name, 1
        while name in seen or (number > 1 and name in taken):
            number += 1
            name = f"{case.name} ({number})"
        seen.add(name)
        named.append(case if name == case.name else replace(case, name=name))
    return named
