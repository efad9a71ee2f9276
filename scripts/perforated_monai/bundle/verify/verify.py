"""``verify``: a zip or folder judged stage by stage; a stage that finds it unsafe is the last."""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import UserError
from ...rules import ERROR, NOTE, Finding, Rule, run, worst_first
from ..check.files import read_bundle
from ..check.run import check_files
from . import archive, walk
from .code_rules import CODE_RULES
from .logging_conf import logging_conf
from .texts import texts
from .weights import weights_file

MOST = 30  # findings of one rule: more say nothing new, and a foreign bundle could ask for millions

# The rules of each stage. A rule that is not named here is not run.
ZIP_RULES: tuple[Rule, ...] = (
    archive.zip_names,
    archive.zip_kinds,
    archive.zip_twice,
    archive.zip_size,
    archive.zip_layout,
    archive.zip_top,
)
PACKED_RULES: tuple[Rule, ...] = (
    walk.plain_files,
    walk.file_names,
    walk.file_sizes,
    walk.disguised,
    walk.record,
    texts,
)
CONTENT_RULES: tuple[Rule, ...] = (walk.unread, weights_file, logging_conf)


@dataclass
class Verdict:
    """What is wrong with a bundle.

    Attributes:
        name: of its folder.
        files: how many were read.
        findings: broken rules.
        foreign: code and names outside the allow-list, which only --trust lets through.
    """

    name: str
    files: int = 0
    findings: list[Finding] = field(default_factory=list)
    foreign: list[Finding] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        """Whether a rule is broken that --trust does not cover."""
        return any(finding.severity == ERROR for finding in self.findings)


def verify(target: str | Path) -> Verdict:
    """Judge a packed or foreign bundle; nothing of it runs and nothing of it stays.

    A folder is read where it lies. A zip is judged by its headers, then unpacked into a temporary
    folder that is always removed.

    Raises:
        UserError: for what is neither, or cannot be read to its end.
    """
    path = Path(target).expanduser()
    if path.is_dir():
        return _judge_folder(path.resolve())
    if not path.is_file():
        msg = f"{target} must be a zip or the folder of a bundle; it is not there."
        raise UserError(msg)
    opened = archive.open_archive(path)
    with opened.zip:
        findings = run(ZIP_RULES, "", opened, most=MOST, foreign=True)
        if findings:
            return Verdict(opened.top or path.stem, len(opened.entries), worst_first(findings))
        with _temporary_folder() as folder:
            return _judge_folder(archive.unpack(opened, folder))


def _judge_folder(root: Path) -> Verdict:
    """Files first, then what they hold, then what they would run, then the bundle as a whole."""
    _refuse_own_folder(root, Path(__file__).resolve())
    unpacked = walk.walk(root)
    verdict = Verdict(root.name, len(unpacked.sizes))
    for rules in (PACKED_RULES, CONTENT_RULES):
        verdict.findings += run(rules, "", unpacked, most=MOST, foreign=True)
        if verdict.broken:
            verdict.findings = worst_first(verdict.findings)
            return verdict
    verdict.foreign = worst_first(run(CODE_RULES, "", unpacked, most=MOST, foreign=True))
    whole = check_files(read_bundle(root), MOST)
    # A network that is not built leaves its weights uncompared.
    unread = [f for f in whole if f.rule == "network" and f.severity == NOTE]
    verdict.foreign += unread
    verdict.findings = worst_first(
        [*verdict.findings, *(finding for finding in whole if finding not in unread)]
    )
    return verdict


def _refuse_own_folder(root: Path, code: Path) -> None:
    """Refuse a bundle that is judged by the package inside it; `python -m` looks here first."""
    if root in code.parents:
        msg = f"{root} holds the code that would judge it. Run verify from another folder."
        raise UserError(msg)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    with _undisturbed():
        folder = tempfile.mkdtemp(prefix="perforated_monai_")
    try:
        yield Path(folder).resolve()
    finally:
        with _undisturbed():
            shutil.rmtree(folder)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of the block: half a removal would leave files behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {n: signal.signal(n, lambda number, _: came.append(number)) for n in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if came:
            signal.raise_signal(came[0])
