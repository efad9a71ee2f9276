"""What a person sees while a run trains: one bar on a terminal, one line an epoch elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm


class Progress:
    """Progress of a training run on stderr.

    On a terminal one bar an epoch shows loss, score, parameters, dendrites and the time left of the
    whole run; in a log file each epoch is one line. ``enabled=False`` shows neither.
    """

    def __init__(
        self, epochs: int, steps: int, enabled: bool = True, done: int = 0, score: str = "Dice"
    ) -> None:
        self._score = score
        self.epochs, self.steps, self.enabled = epochs, steps, enabled
        self.terminal = enabled and sys.stderr.isatty()
        self._started, self._first = time.monotonic(), done
        self._bar: tqdm | None = None
        self._facts = ""

    def start_epoch(self, epoch: int) -> None:
        """Open the bar of an epoch; epochs count from 1."""
        if self.terminal:
            label = f"epoch {epoch}/{self.epochs}"
            form = "{desc} {bar:24} {n_fmt}/{total_fmt} {postfix}"
            self._bar = tqdm(total=self.steps, desc=label, bar_format=form, leave=False)

    def step(self, loss: float) -> None:
        """One training step is done."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.3f}  {self._facts}", refresh=False)
            self._bar.update()

    def end_epoch(
        self, epoch: int, loss: float, dice: float | None, sets: int, parameters: int
    ) -> None:
        """Close the bar and, away from a terminal, print the epoch's line."""
        score = "  --  " if dice is None else f"{dice:.4f}"
        facts = (f"{self._score} {score}", f"dendrites {sets}", f"{parameters:,} parameters")
        self._facts = "  ".join([*facts, f"{self.left(epoch)} left"])
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        width = len(str(self.epochs))
        self.say(f"epoch {epoch:{width}d}/{self.epochs}  loss {loss:.4f}  {self._facts}")

    def say(self, text: str) -> None:
        """One plain line that stays."""
        if self.enabled:
            tqdm.write(text, file=sys.stderr)

    def left(self, epoch: int) -> str:
        """Time left as ``1 h 05 min`` or ``3 min 20 s``, from the epochs done in this process."""
        done = max(epoch - self._first, 1)
        seconds = (time.monotonic() - self._started) / done * (self.epochs - epoch)
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
