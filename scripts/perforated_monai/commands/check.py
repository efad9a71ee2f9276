"""What the `check` and `prepare` commands print and write."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ..bundle.folder import bundle_folder
from ..data.check import check as data
from ..data.check.check import check_dataset
from ..data.manifest import Manifest
from ..errors import UserError
from ..files import refuse_foreign, write_json
from ..rules import ERROR, NOTE, WARNING, Finding, Rule, count

COLOURS = {ERROR: "bold red", WARNING: "yellow", NOTE: "cyan"}
PICTURES = 48  # cases on the contact sheet


def check_target(
    target: str, *, manifest: str, read: str, workers: int, json_file: str, report_file: str
) -> int:
    """Check a dataset or a bundle, print the findings, write the copies; 1 when one is an error.

    Raises:
        UserError: a folder or manifest that cannot be read, or a file that cannot be written.
    """
    start = time.perf_counter()
    for file in filter(None, (json_file, report_file)):
        _expect_folder(file)
    if json_file:
        refuse_foreign(json_file, "list of findings", ['"counts"', '"findings"'])
    if report_file:
        refuse_foreign(report_file, "page of check", ["<title>Data check: "])
    if target.lower().endswith(".zip"):
        bundle_folder(target)
    if not Path(target).expanduser().is_dir():
        wrong = "is no folder" if Path(target).expanduser().exists() else "does not exist"
        msg = f"check takes the folder of a data set or a bundle; {target} {wrong}. Correct it."
        raise UserError(msg)
    if is_bundle(Path(target)):
        if report_file:
            msg = f"--report shows volumes, and {target} is a bundle. Leave it out, or use --json."
            raise UserError(msg)
        from ..bundle.check.run import check_bundle

        summary: dict[str, Any] = {"bundle": Path(target).resolve().name}
        findings = check_bundle(target)
        counted = f"bundle {summary['bundle']}"
    else:
        pictures = PICTURES if report_file and read == "all" else 0
        audit = check_dataset(
            target,
            manifest or None,
            read=read,
            workers=workers or None,
            pictures=pictures,
            progress=True,
        )
        findings = audit.findings
        summary = {
            "dataset": audit.root.name,
            "manifest": {"name": audit.manifest.name, "sha256": audit.manifest.hash()},
            "cases": {"listed": len(audit.manifest.cases), "read": len(audit.pairs)},
            "read": read,
        }
        counted = (
            f"{len(audit.pairs)} of {len(audit.manifest.cases)} cases of {audit.manifest.name}"
        )
        if report_file:
            from ..data.check.report import write_report

            write_report(audit, report_file)
    if json_file:
        listed = [finding.to_dict() for finding in findings]
        write_json(
            json_file, {"format": 1, **summary, "counts": count(findings), "findings": listed}
        )
    return print_result(findings, counted, time.perf_counter() - start)


def print_findings(root: str, manifest: Manifest) -> int:
    """Check a dataset and print the findings; 1 when one is an error."""
    start = time.perf_counter()
    audit = check_dataset(root, manifest, progress=True)
    counted = f"{len(audit.pairs)} of {len(audit.manifest.cases)} cases"
    return print_result(audit.findings, counted, time.perf_counter() - start)


def print_rules() -> int:
    """The table of all rules."""
    lists = rule_lists()
    width = max(len(rule.name) for rules in lists.values() for rule in rules)
    for meaning, rules in lists.items():
        print(meaning)
        for rule in rules:
            print(f"  {rule.name:<{width}}  {rule.severity:<7}  {rule.message}")
    return 0


def rule_lists() -> dict[str, tuple[Rule, ...]]:
    """What each list of rules is for -> the rules."""
    from ..bundle.check.run import BUNDLE_RULES
    from ..bundle.verify.verify import CODE_RULES, CONTENT_RULES, PACKED_RULES, ZIP_RULES

    return {
        "volume: every image and label": data.VOLUME_RULES,
        "image: every image": data.IMAGE_RULES,
        "label: every label": data.LABEL_RULES,
        "pair: an image and its label": data.PAIR_RULES,
        "dataset: all cases together": data.DATASET_RULES,
        "bundle: a bundle": BUNDLE_RULES,
        "zip: a zip that is verified, before it is unpacked": ZIP_RULES,
        "packed: the files of a bundle that is verified": PACKED_RULES,
        "content: what a verified bundle holds": CONTENT_RULES,
        "code: what a verified bundle would run; --trust goes on": CODE_RULES,
    }


def is_bundle(folder: Path) -> bool:
    """Whether a folder holds a bundle: configs, and no volumes in MSD layout."""
    return (folder / "configs").is_dir() and not (folder / "imagesTr").is_dir()


def print_result(findings: list[Finding], counted: str, seconds: float) -> int:
    """One line a finding, never folded: a line is what people search for; 1 for an error."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    for finding in findings:
        line = Text(f"{finding.severity:<7} ", style=COLOURS[finding.severity])
        console.print(line.append(f"{finding.rule}: ", "bold").append(finding.text(), "default"))
    numbers = count(findings)
    shown = ", ".join(f"{n} {severity}{'s' * (n != 1)}" for severity, n in numbers.items())
    console.print(f"{counted}: {shown} ({seconds:.1f} s)")
    return 1 if numbers[ERROR] else 0


def _expect_folder(file: str) -> None:
    """Refuse before the work, not after it."""
    if not Path(file).expanduser().parent.is_dir():
        msg = f"{file} cannot be written: its folder is missing. Make it or choose another."
        raise UserError(msg)
