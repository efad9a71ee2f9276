"""``Finding``: one broken rule, with the file, the value found and the cure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

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
