"""Statistics against tables whose answer is known, and against simulated nulls."""

import numpy as np
import pytest

from perforated_monai.study.statistics import (
    FEWEST_SEEDS,
    HELPS,
    HURTS,
    LEVEL,
    NO_DIFFERENCE,
    NOT_WORSE,
    TOO_FEW,
    compare,
    holm,
    t_interval,
    t_intervals,
)

# Standard deviations (Dice) of seed noise, case noise of a difference and residual.
SETTINGS = {"seeds": (0.006, 0.001, 0.002), "cases": (0.001, 0.01, 0.002), "both": (0.004,) * 3}


def share_decided(tables: np.ndarray) -> float:
    """Share of tables that would read "helps" or "hurts", each judged alone.

    Args:
        tables: ``(tables, seeds, cases)`` differences.
    """
    decided = np.ones(len(tables), dtype=bool)
    sign = np.zeros(len(tables))
    for axis in (2, 1):
        mean, half, p = t_intervals(tables.mean(axis=axis))
        agrees = (sign == 0) | (np.sign(mean) == sign)
        decided &= (np.abs(mean) > half) & (p < 1 - LEVEL) & agrees
        sign = np.sign(mean)
    if tables.shape[1] < FEWEST_SEEDS:
        decided[:] = False
    return float(decided.mean())


def crossed(rng: np.random.Generator, shape: tuple[int, ...], noise: tuple[float, ...]):
    """Tables (..., seeds, cases): seed effect + case effect + residual, mean 0."""
    seed, case, rest = noise
    *many, seeds, cases = shape
    return (
        seed * rng.standard_normal((*many, seeds, 1))
        + case * rng.standard_normal((*many, 1, cases))
        + rest * rng.standard_normal(shape)
    )


def only(table) -> str:
    (found,) = compare({"it": np.asarray(table, dtype=float)})
    return found.verdict


def test_interval_is_the_textbook_one() -> None:
    # Student's own sleep data (1908), drug 2 minus drug 1: mean 1.58, 0.70 to 2.46, p = 0.00283.
    found = t_interval([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
    assert (found.mean, found.low, found.high) == pytest.approx((1.58, 0.7001, 2.4599), abs=1e-4)
    assert found.p == pytest.approx(0.002833, abs=1e-6)


def test_one_value_has_no_end() -> None:
    found = t_interval([0.1])
    assert (found.low, found.high, found.p) == (-np.inf, np.inf, 1.0)


def test_holm_known_answer() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).max() <= 1
    many = np.random.default_rng(0).random((50, 4))
    assert np.array_equal(holm(many), np.stack([holm(row) for row in many]))


def test_verdicts_of_hand_made_tables() -> None:
    wave = np.array([-1.0, 1.0] * 20)[None, :] * 0.002
    spread = np.array([-0.001, -0.0005, 0, 0.0005, 0.001])[:, None]
    noise = wave + spread
    assert only(noise + 0.01) == HELPS
    assert only(noise - 0.01) == HURTS
    assert only(noise) == NOT_WORSE
    assert only(8 * noise) == NO_DIFFERENCE  # the seeds' interval reaches 0.8 points below 0
    assert only((noise + 0.01)[:4]) == TOO_FEW


def test_one_interval_alone_decides_nothing() -> None:
    seeds = np.array([0.03, -0.02, 0.02, -0.01, 0.0])[:, None]
    lucky = 0.01 + seeds + np.zeros((1, 42)) + 1e-4 * np.sin(np.arange(42))
    (found,) = compare({"it": lucky})
    assert found.over_cases.low > 0 or found.over_cases.high < 0
    assert found.over_seeds.low <= 0 <= found.over_seeds.high
    assert found.verdict == NO_DIFFERENCE
    assert found.reported is found.over_seeds
    assert found.p == found.over_seeds.p


def test_holm_counts_every_comparison() -> None:
    spread = np.arange(-2, 3)[:, None] * 0.0015
    table = 0.004 + spread + 1e-4 * np.sin(np.arange(42))  # t = 3.77 over five seeds, p = 0.0196
    alone = compare({"it": table})[0]
    assert alone.verdict == HELPS and alone.p > 0.05 / 6
    others = {str(i): np.zeros((5, 42)) for i in range(5)}
    assert compare({"it": table} | others)[0].verdict != HELPS


def test_an_absent_class_is_left_out() -> None:
    table = np.full((5, 4), 0.01) + np.arange(5)[:, None] * 1e-4
    table[:, 2] = np.nan
    (found,) = compare({"it": table})
    assert found.over_cases.n == 3 and found.over_seeds.n == 5
    assert found.verdict == HELPS


def test_identical_arms_never_differ() -> None:
    assert only(np.zeros((5, 42))) == NOT_WORSE
    assert share_decided(np.zeros((2000, 5, 42))) == 0


@pytest.mark.parametrize("name", SETTINGS)
def test_null_tables_rarely_decide(name: str) -> None:
    rng = np.random.default_rng([5, len(name)])
    assert share_decided(crossed(rng, (4000, 5, 42), SETTINGS[name])) <= 0.07


def test_the_rule_is_weakest_where_both_noises_weigh_alike() -> None:
    # Each interval then misses half the variance: about one in ten at ten seeds, see README.
    tables = crossed(np.random.default_rng(0), (4000, 10, 42), (0.004, 0.0082, 0.002))
    assert 0.07 < share_decided(tables) < 0.13


def test_a_real_difference_is_found() -> None:
    tables = 0.01 + crossed(np.random.default_rng(0), (500, 5, 42), SETTINGS["both"])
    assert share_decided(tables) > 0.8


def test_many_tables_are_judged_as_one_is() -> None:
    tables = 0.004 + crossed(np.random.default_rng(1), (100, 5, 42), SETTINGS["both"])
    one_by_one = [only(t) in (HELPS, HURTS) for t in tables]
    assert 0 < np.mean(one_by_one) < 1
    assert share_decided(tables) == np.mean(one_by_one)


def test_intervals_of_many_are_those_of_one() -> None:
    values = np.random.default_rng(2).standard_normal((20, 7))
    mean, half, p = t_intervals(values)
    for i, row in enumerate(values):
        one = t_interval(row)
        assert (one.mean, one.half, one.p) == pytest.approx((mean[i], half[i], p[i]))
