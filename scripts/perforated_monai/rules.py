"""Rules: what must hold, what was found instead, and the cure.

```python
@rule("constant", "must hold more than one value", voxels=True)
def constant(image: Volume, facts: Facts) -> Iterator[Broken]:
    if image.low == image.high:
        yield Broken(f"{image.low} everywhere", "Remove the case")


IMAGE_RULES = (constant,)
```

A check names its rules in a tuple. Nothing registers itself: a rule that is lost on the way is an
ImportError, and an empty tuple is refused, so neither can read as "nothing is wrong".
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
        value: what is there instead.
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


class Broken(NamedTuple):
    """What a rule yields; `file` and `severity` replace those of the caller and the rule."""

    value: object
    cure: str
    file: str = ""
    severity: str = ""


Check = Callable[..., Iterator[Broken]]


@dataclass(frozen=True)
class Rule:
    """One rule; `voxels`: it needs the file read to its end."""

    name: str
    message: str
    severity: str
    voxels: bool
    check: Check

    def __call__(self, *subjects: Any) -> Iterator[Broken]:
        """What the rule's function yields."""
        return self.check(*subjects)

    def findings(self, file: str, *subjects: Any) -> Iterator[Finding]:
        """Run the rule on what its list is for."""
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


def rule(
    name: str, message: str, severity: str = ERROR, voxels: bool = False
) -> Callable[[Check], Rule]:
    """Make a rule of a function."""

    def make(check: Check) -> Rule:
        return Rule(name, message, severity, voxels, check)

    return make


def run(
    rules: tuple[Rule, ...],
    file: str,
    *subjects: Any,
    voxels: bool = True,
    most: int | None = None,
    foreign: bool = False,
) -> list[Finding]:
    """Findings of a list of rules, in its order.

    Args:
        rules: which.
        file: what a finding names where its rule does not.
        subjects: what these rules take.
        voxels: without it, only rules that read headers.
        most: findings of one rule, after which it is not asked further.
        foreign: nothing is known of the subjects; a rule that fails on them is an error of theirs.

    Raises:
        ValueError: for no rules at all, which would pass anything.
    """
    if not rules:
        msg = f"A check must have rules; got an empty list for {file or 'a folder'}. Name them."
        raise ValueError(msg)
    return [
        finding
        for each in rules
        if voxels or not each.voxels
        for finding in itertools.islice(
            (each.judgement if foreign else each.findings)(file, *subjects), most
        )
    ]
