"""What a person sees of a run: away from a terminal, one line an epoch."""

import pytest

from perforated_monai.training.progress import Progress


def test_a_log_gets_one_line_an_epoch(capfd: pytest.CaptureFixture) -> None:
    progress = Progress(epochs=2, steps=3)
    for epoch in (1, 2):
        progress.start_epoch(epoch)
        for _ in range(3):
            progress.step(0.5)
        progress.end_epoch(epoch, 0.5, 0.25 * epoch, sets=0, parameters=1000)
    written = capfd.readouterr()
    assert written.out == "" and "\r" not in written.err
    lines = written.err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert "Dice 0.5000" in lines[1] and "1,000 parameters" in lines[1]


def test_nothing_is_shown_unless_asked_for(capfd: pytest.CaptureFixture) -> None:
    progress = Progress(epochs=1, steps=1, enabled=False)
    progress.start_epoch(1)
    progress.step(0.5)
    progress.end_epoch(1, 0.5, None, sets=0, parameters=1)
    progress.say("a line")
    assert capfd.readouterr().err == ""
