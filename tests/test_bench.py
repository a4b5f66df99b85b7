"""bench.race: contenders take turns, each in a process of its own; ratios are within rounds."""

import os

import pytest

from bench.race import Contender, Result, race

CALLS = []


def counting():
    """A contender that tells its process and how often it has been called."""
    CALLS.clear()

    def run():
        CALLS.append(None)
        return os.getpid(), len(CALLS)

    return run


def dying():
    return lambda: os._exit(3)


def test_contenders_take_turns_in_processes_of_their_own():
    results = race([Contender("a", counting), Contender("b", counting)], rounds=3, least=1e-9)
    pids, calls = zip(*(r.answer for r in results))
    assert len({os.getpid(), *pids}) == 3
    assert calls == (5, 5)  # one to warm up, one to set the number of calls, three rounds of one
    assert [len(r.seconds) for r in results] == [3, 3]
    assert all(1 < r.peak_mib < 2000 for r in results) and CALLS == []


def test_a_ratio_is_the_median_of_the_ratios_within_rounds():
    slow, fast = Result("slow", [2.0, 20.0, 9.0], 0, None), Result("fast", [1.0, 4.0, 3.0], 0, None)
    assert fast.times_as_fast_as(slow) == 3.0  # of 2, 5 and 3
    assert slow.times_as_fast_as(slow) == 1.0
    assert slow.median == 9.0


def test_a_contender_that_dies_is_named():
    with pytest.raises(RuntimeError, match="the process of crash died"):
        race([Contender("crash", dying)], rounds=1)
