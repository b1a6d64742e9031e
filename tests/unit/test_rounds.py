"""When copy rounds end, how a writer is slowed down, and which pages count as hot."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from migrator.rounds import SHARES, Heat, Limits, Round, bandwidth, decide

PAGE = 4096
LINK = 118 << 20
LIMITS = Limits(downtime_ms=300, fixed_ms=60, max_rounds=10, max_time_s=60)


def a_round(pages: int, dirty: int, share: float = 1.0) -> Round:
    """A round of so many pages over a link of 118 MiB/s."""
    return Round(pages * PAGE, pages * PAGE / LINK, pages, dirty, share)


def story(*pages: int, shares: tuple[float, ...] = ()) -> list[Round]:
    """Rounds, each of which sends what the former has left."""
    shares = shares + (1.0,) * len(pages)
    return [a_round(*pair, share) for pair, share in zip(pairwise(pages), shares, strict=False)]


@pytest.mark.parametrize(
    ("pages", "go_on", "why"),
    [
        # an idle container: all is sent, nothing is written
        ((262144, 0), False, "converged: 0.0 MiB are left, 0 ms at 118 MiB/s"),
        ((262144, 100), False, "converged: 0.4 MiB are left, 3 ms"),
        # under the target, but the next round takes most of what is left
        ((262144, 5000), True, "round 2: 19.5 MiB are left, 166 ms"),
        ((262144, 5000, 300), False, "converged: 1.2 MiB are left, 10 ms"),
        # under the target, and rounds gain little
        ((262144, 5000, 4000), False, "converged"),
        # over the target, and shrinking
        ((262144, 30000), True, "round 2"),
        ((262144, 30000, 20000), True, "round 3"),
        ((262144, 30000, 20000, 15000), True, "round 4"),
        # not shrinking: once may be chance, twice is not
        ((262144, 30000, 29000), True, "round 3"),
        ((262144, 30000, 29000, 28000), False, "does not converge, it writes as fast"),
        ((262144, 30000, 45000, 60000), False, "does not converge"),
        ((262144, 250000, 240000), True, "round 3"),
        ((262144, 250000, 240000, 235000), False, "does not converge"),
        # shrinking too slowly for the rounds there are
        ([200_000 - i * 12_000 for i in range(11)], False, "stopped after 10 rounds: 312 MiB"),
    ],
)
def test_the_rounds_end_when_no_other_would_help(pages, go_on, why):
    decision = decide(story(*pages), LIMITS)
    assert (decision.go_on, decision.why[: len(why)]) == (go_on, why)


def test_rounds_end_when_their_time_is_over():
    limits = Limits(downtime_ms=10, fixed_ms=5, max_rounds=99, max_time_s=10)
    decision = decide(story(262144, 200000, 100000), limits)
    assert not decision.go_on
    assert decision.why.startswith("stopped after 15.3 s: 391 MiB are left")


def test_the_prediction_is_what_is_left_and_the_fixed_part():
    decision = decide(story(262144, 30000), LIMITS)
    assert decision.predicted_downtime_ms == pytest.approx(60 + 30000 * PAGE / LINK * 1000)


def test_compressed_pages_are_predicted_as_compressed():
    whole = a_round(262144, 30000)
    third = Round(whole.bytes_sent // 3, whole.seconds / 3, 262144, 30000)
    assert decide([third], LIMITS).predicted_downtime_ms < 60 + 30000 * PAGE / LINK * 1000 / 2


def test_pages_that_need_not_be_sent_again_are_predicted_as_such():
    """Of 40000 dirty pages a tenth had a content that was not there yet."""
    rounds = [a_round(262144, 40000), Round(4000 * PAGE, 0.2, 4000, 40000)]
    decision = decide(rounds, LIMITS)
    assert round(decision.predicted_downtime_ms) == LIMITS.fixed_ms + 200
    assert "15.6 MiB are left, 200 ms" in decision.why


def test_a_round_of_a_few_pages_says_nothing_about_the_link():
    rounds = [a_round(262144, 10), Round(10 * PAGE, 0.5, 10, 3000)]
    assert bandwidth(rounds) == pytest.approx(LINK)
    assert bandwidth([Round(0, 0.0, 0, 0)]) == 1.0


def test_an_unreachable_target_is_told_by_the_fixed_part_alone():
    limits = Limits(downtime_ms=50, fixed_ms=60, max_rounds=5, max_time_s=60)
    assert decide(story(262144, 30), limits).go_on
    decision = decide(story(262144, 30, 30, 30), limits)
    assert not decision.go_on
    assert decision.predicted_downtime_ms == pytest.approx(61, abs=0.1)


CONVERGE = Limits(downtime_ms=300, fixed_ms=60, max_rounds=30, max_time_s=600, converge=True)


def test_a_writer_is_slowed_down_step_by_step_until_it_converges():
    rounds, share, seen = [a_round(262144, 60000)], 1.0, []
    while (decision := decide(rounds, CONVERGE)).go_on:
        share = decision.cpu_share
        seen.append(share)
        # it writes 2.5 times as fast as the link, times what it is left of its CPU
        sent = rounds[-1].dirty_pages
        rounds.append(a_round(sent, min(60000, int(sent * 2.5 * share)), share))
    assert decision.why.startswith("converged")
    assert seen[:2] == [1.0, 0.5]
    assert sorted(seen, reverse=True) == seen
    assert set(seen) <= set(SHARES)


def test_a_writer_that_nothing_slows_down_ends_the_rounds():
    shares = (1.0, *SHARES, SHARES[-1], SHARES[-1])
    rounds = story(*[50000] * 8, shares=shares)
    assert decide(rounds[:5], CONVERGE).go_on
    decision = decide(rounds[:7], CONVERGE)
    assert (decision.go_on, decision.cpu_share) == (False, SHARES[-1])


def test_nothing_is_slowed_down_that_converges_or_unasked():
    assert decide(story(262144, 60000, 25000), CONVERGE).cpu_share == 1.0
    assert decide(story(262144, 60000, 59000), LIMITS).cpu_share == 1.0


def test_hot_pages_are_sent_last():
    heat = Heat()
    heat.add({1: [(0, 100 * PAGE)], 2: [(0, 10 * PAGE)]})
    heat.add({1: [(10 * PAGE, 20 * PAGE)], 2: [(5 * PAGE, 6 * PAGE)]})
    heat.add({1: [(12 * PAGE, 13 * PAGE)]})
    order = heat.order({1: [(8 * PAGE, 30 * PAGE)], 2: [(0, 7 * PAGE)]})
    assert order == [
        (1, (8 * PAGE, 10 * PAGE)),
        (1, (20 * PAGE, 30 * PAGE)),
        (2, (0, 5 * PAGE)),
        (2, (6 * PAGE, 7 * PAGE)),
        (1, (10 * PAGE, 12 * PAGE)),
        (1, (13 * PAGE, 20 * PAGE)),
        (2, (5 * PAGE, 6 * PAGE)),
        (1, (12 * PAGE, 13 * PAGE)),
    ]


def test_the_hottest_pages_come_hottest_first_up_to_a_limit():
    heat = Heat()
    heat.add({1: [(0, 100 * PAGE)], 2: []})
    assert heat.hottest(100) == {}
    heat.add({1: [(10 * PAGE, 20 * PAGE), (50 * PAGE, 60 * PAGE)], 2: [(0, PAGE)]})
    heat.add({1: [(55 * PAGE, 56 * PAGE)]})
    assert heat.hottest(1) == {1: [(55 * PAGE, 56 * PAGE)]}
    assert heat.hottest(6) == {1: [(55 * PAGE, 56 * PAGE), (10 * PAGE, 15 * PAGE)]}
    assert heat.hottest(99) == {
        1: [
            (55 * PAGE, 56 * PAGE),
            (10 * PAGE, 20 * PAGE),
            (50 * PAGE, 55 * PAGE),
            (56 * PAGE, 60 * PAGE),
        ],
        2: [(0, PAGE)],
    }
    heat.drop(1)
    assert heat.hottest(6) == {2: [(0, PAGE)]}


def test_heat_agrees_with_counting_each_page():
    numbers = random.Random(7)
    heat, counts = Heat(), [0] * 200
    heat.add({5: [(0, 200 * PAGE)]})
    for _ in range(30):
        at, runs = 0, []
        while at < 190:
            start = at + numbers.randint(0, 12)
            at = start + numbers.randint(1, 9)
            if at <= 200 and start < at:
                runs.append((start * PAGE, at * PAGE))
                for page in range(start, at):
                    counts[page] += 1
            at += 1
        heat.add({5: runs})
        ordered = heat.order({5: [(0, 77 * PAGE), (90 * PAGE, 200 * PAGE)]})
        pages = [page for _, (start, end) in ordered for page in range(start // PAGE, end // PAGE)]
        assert sorted(pages) == [*range(77), *range(90, 200)]
        assert [counts[page] for page in pages] == sorted(counts[page] for page in pages)
