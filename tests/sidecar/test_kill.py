"""Five short rounds of `benchmarks.kill_rounds`: `kill -9` of sidecar and sender at random moments, nothing lost."""

import pytest

from benchmarks.kill_rounds import play_round


@pytest.mark.parametrize("seed", [2001, 2002, 2003, 2004, 2005])
def test_kill_9_at_a_random_moment_loses_nothing(seed, tmp_path):
    """The real publisher with its spool, a real sidecar; the seed repeats the round."""
    outcome = play_round(seed, folder=tmp_path, load_s=0.7)
    print(outcome)
    assert outcome.owed > 0
    assert (outcome.lost, outcome.twice, outcome.strange, outcome.damaged) == (0, 0, 0, False)
    assert outcome.oldest_unkept_s < 0.5
