"""``python -m perforated_monai <command>``: one line on failure, exit codes as documented.

0 done, 1 failed, 2 wrong usage, 3 done for some cases (each failure named). A command stands in the
file of its family and imports what is heavy when it runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fire

from ..bundle.streams import forgiving, reader_is_gone
from ..errors import UsageError, UserError
from .arguments import Seed, canonical
from .data import check, phantom, prepare
from .export import export
from .overlay import overlay
from .report import report
from .segment import segment
from .share import card, efficiency, pack, verify
from .study import study


def demo(out: str = "demo_output", seed: Seed = 0) -> int:
    """Phantoms -> a small UNet that grows, plain ones beside it -> plain bundle -> segmentation.

    Args:
        out: folder for everything the demo writes.
        seed: of the phantoms and the trainings.
    """
    from .demo import run_demo

    return run_demo(Path(out), seed)


COMMANDS: dict[str, Callable[..., int]] = {
    "demo": demo,
    "phantom": phantom,
    "prepare": prepare,
    "check": check,
    "overlay": overlay,
    "export": export,
    "segment": segment,
    "pack": pack,
    "verify": verify,
    "study": study,
    "report": report,
    "card": card,
    "efficiency": efficiency,
}


# With it an error of a library, which no rule of ours foresaw, shows where it arose.
TRACEBACK = "PERFORATED_MONAI_TRACEBACK"
_PRINTED = ("overlay",)  # commands whose product is what they print


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    A standard stream that nobody reads changes nothing of it, unless what is printed is all that
    the command makes and the disk is full.
    """
    argv = sys.argv[1:] if argv is None else argv
    with forgiving() as stdout:
        code = _run(argv)
        stdout.flush()
        if code == 0 and argv[:1] and argv[0] in _PRINTED and not reader_is_gone(stdout.lost):
            print(f"perforated_monai: what was printed is lost: {stdout.lost}.", file=sys.stderr)
            return 1
    return code


def _run(argv: list[str]) -> int:
    try:
        _refuse_lost_folder()
        words = _readable(argv)
        result: Any = fire.Fire(COMMANDS, command=words, name="perforated_monai", serialize=_silent)
    except UsageError as error:
        print(f"perforated_monai: {error}", file=sys.stderr)
        return 2
    except (UserError, OSError) as error:
        print(f"perforated_monai: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except fire.core.FireExit as error:
        return int(error.code)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        print(f"perforated_monai: {_unforeseen(error)}", file=sys.stderr)
        return 1
    return result if isinstance(result, int) else 0


def _refuse_lost_folder() -> None:
    """Native libraries end the process, by exit code 2, where the current folder was removed."""
    try:
        Path.cwd()
    except OSError:
        msg = "the current folder was removed. Change to one that is there."
        raise UserError(msg) from None


def _unforeseen(error: Exception) -> str:
    """One line for an error that no rule refuses by name."""
    package = Path(__file__).resolve().parents[1]
    trace = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in trace if Path(frame.filename).is_relative_to(package)]
    at = f"{Path(ours[-1].filename).relative_to(package)}:{ours[-1].lineno}" if ours else "?"
    text = " ".join(str(error).split())[:300]
    return (
        f"{type(error).__name__}{': ' * bool(text)}{text} (at {at}). No rule names this: look at "
        f"what was given, and report it. {TRACEBACK}=1 shows where it arose."
    )


def _silent(_: Any) -> None:
    """Fire would print the exit code."""


def _readable(argv: list[str]) -> list[str]:
    """The command line as fire reads it without guessing; what is wrong with it is said first."""
    if not argv or argv[0] in ("-h", "--help"):
        return argv
    name, *words = argv
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1) or list(COMMANDS)
        msg = f"no command {name!r}. Did you mean: {', '.join(close)}?"
        raise UsageError(msg)
    return [name, *canonical(name, COMMANDS[name], words)]
