"""Pool of actors; the scoring of a chunk is tested without Ray in test_chunk_scorer.py."""

import pytest

from distilray.errors import InputError
from distilray.evaluation.fill_mask.chunk_scorer import answers_name
from tests.tiny.fill_mask import score_in_process

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


def test_two_actors_resume_a_run_with_the_result_of_one_process(scored, tmp_path, recwarn):
    with pytest.MonkeyPatch.context() as patch:
        score_in_process(patch)
        alone = scored(tmp_path / "alone")
        score_in_process(patch, limit=2)
        with pytest.raises(KeyboardInterrupt):
            scored(tmp_path / "resumed")
    first = tmp_path / "resumed" / answers_name(next(iter(alone)))
    written = first.stat().st_mtime_ns
    assert scored(tmp_path / "resumed") == alone
    assert first.stat().st_mtime_ns == written
    assert len(alone) == 7
    assert [str(warning.message) for warning in recwarn if "actors" in str(warning.message)] == []  # of Ray Data


def test_more_actors_than_there_is_room_for_are_refused(scored, tmp_path):
    with pytest.raises(InputError, match="no room for 3 actors with 1 CPU: the local cluster has 2 CPU"):
        scored(tmp_path, scaling={"actors": 3})
    with pytest.raises(InputError, match=r"no room for 1 actor with 1 GPU: .*device=cpu"):
        scored(tmp_path, device="gpu")
