"""The list of rules. A rule is a function with a name and a message; adding one adds it to `check`.

```python
@rule("constant", "image", "must hold more than one value", voxels=True)
def constant(image: Volume, facts: Facts) -> Iterator[Broken]:
    if image.low == image.high:
        yield Broken(f"{image.low} everywhere", "Remove the case")
```
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)  # worst first


@dataclass(frozen=True)
class Finding:
    """One broken rule.

    Attributes:
        severity: "error" (training refuses it), "warning" or "note".
        rule: name of the rule, as `check --list-rules` prints it.
        file: path relative to the folder that was checked, with forward slashes; empty for the
            folder itself.
        message: what must hold.
        value: what was found.
        cure: what to do.
    """

    severity: str
    rule: str
    file: str
    message: str
    value: str
    cure: str

    def text(self, root: Path | None = None) -> str:
        """One line; with `root`, the path is complete."""
        name = (self.file or "The folder") if root is None else (root / self.file).as_posix()
        line = " ".join(f"{name} {self.message}; got {self.value}. {self.cure}.".split())
        # A name in a foreign file could otherwise move the cursor or colour the terminal.
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)

    def to_dict(self) -> dict[str, str]:
        """As `check --json` writes it."""
        return asdict(self)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, warnings, notes; within each by file and rule."""
    return sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), f.file, f.rule))


def count(findings: Iterable[Finding]) -> dict[str, int]:
    """Number of findings of each severity."""
    severities = [finding.severity for finding in findings]
    return {severity: severities.count(severity) for severity in SEVERITIES}


SCOPES = {
    "volume": "every image and label",
    "image": "every image",
    "label": "every label",
    "pair": "an image and its label",
    "dataset": "all cases together",
    "bundle": "a bundle",
    "zip": "a zip that is verified, before it is unpacked",
    "packed": "the files of a bundle that is verified",
    "content": "what a verified bundle holds",
    "code": "what a verified bundle would run; --trust goes on",
}


class Broken(NamedTuple):
    """What a rule yields; `file` and `severity` replace those of volume and rule."""

    value: object
    cure: str
    file: str = ""
    severity: str = ""


@dataclass(frozen=True)
class Rule:
    """A registered rule; `voxels`: it needs the file read to its end."""

    name: str
    scope: str
    message: str
    severity: str
    voxels: bool
    check: Callable[..., Iterator[Broken]]

    def findings(self, file: str, *subjects: Any) -> Iterator[Finding]:
        """Run the rule on what its scope gives."""
        for value, cure, other, severity in self.check(*subjects):
            severity = severity or self.severity
            yield Finding(severity, self.name, other or file, self.message, str(value), cure)

    def judgement(self, file: str, *subjects: Any) -> Iterator[Finding]:
        """The same, and an error where the rule cannot read what it was given."""
        try:
            yield from self.findings(file, *subjects)
        except Exception as error:  # foreign files hold anything
            value = f"what no bundle holds ({type(error).__name__}: {error})"[:300]
            yield Finding(ERROR, self.name, file, self.message, value, "Correct or refuse it")


RULES: dict[str, Rule] = {}


def rule(
    name: str, scope: str, message: str, severity: str = ERROR, voxels: bool = False
) -> Callable[[Callable[..., Iterator[Broken]]], Callable[..., Iterator[Broken]]]:
    """Register a rule function under a name."""

    def register(check: Callable[..., Iterator[Broken]]) -> Callable[..., Iterator[Broken]]:
        if name in RULES or scope not in SCOPES:
            msg = f"rule {name!r} must have a new name and a scope of {', '.join(SCOPES)}."
            raise ValueError(msg)
        RULES[name] = Rule(name, scope, message, severity, voxels, check)
        return check

    return register


def run(
    scopes: Iterable[str],
    file: str,
    *subjects: Any,
    voxels: bool = True,
    most: int | None = None,
    foreign: bool = False,
) -> list[Finding]:
    """Findings of all rules of some scopes.

    Args:
        scopes: names of scopes.
        file: what a finding names where its rule does not.
        subjects: what the scopes' rules take.
        voxels: without it, only rules that read headers.
        most: findings of one rule, after which it is not asked further.
        foreign: nothing is known of the subjects; a rule that fails on them is an error of theirs.
    """
    wanted = set(scopes)
    return [
        finding
        for each in RULES.values()
        if each.scope in wanted and (voxels or not each.voxels)
        for finding in itertools.islice(
            (each.judgement if foreign else each.findings)(file, *subjects), most
        )
    ]


def list_rules() -> str:
    """The table that `check --list-rules` prints."""
    width = max(len(name) for name in RULES)
    lines = []
    for scope, meaning in SCOPES.items():
        lines.append(f"{scope}: {meaning}")
        lines += [
            f"  {r.name:<{width}}  {r.severity:<7}  {r.message}"
            for r in RULES.values()
            if r.scope == scope
        ]
    return "\n".join(lines)
