import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilray.runtime.seeding import generator, hash_integers, uniform

Integers = st.integers(min_value=0, max_value=2**63 - 1)


def chi_square(hashed: np.ndarray, bins: int = 256) -> float:
    """Chi-square of the counts in equal bins, in standard deviations from its mean."""
    counts = np.bincount((uniform(hashed) * bins).astype(int), minlength=bins)
    expected = hashed.size / bins
    return float((((counts - expected) ** 2).sum() / expected - (bins - 1)) / np.sqrt(2 * (bins - 1)))


@pytest.mark.parametrize(
    "hashed",
    [
        hash_integers(56, np.arange(100_000)),
        hash_integers(56, 7, np.arange(100_000)),
        hash_integers(56, np.arange(100_000), 7),
        hash_integers(56, np.arange(100_000) << 24),
        hash_integers(56, np.arange(1000)[:, None], np.arange(100)).ravel(),
        np.array([hash_integers(seed, 3) for seed in range(20_000)]),
    ],
    ids=["counter", "last part", "first part", "high bits", "grid", "seeds"],
)
def test_hashes_of_neighbouring_integers_are_uniform(hashed: np.ndarray) -> None:
    assert abs(chi_square(hashed)) < 5
    assert abs(chi_square(hashed << np.uint64(32))) < 5  # the low half as well


@pytest.mark.parametrize("bit", [0, 1, 31, 63])
def test_one_changed_bit_of_the_input_changes_half_of_the_bits(bit: int) -> None:
    values = np.arange(4000, dtype=np.uint64)
    changed = hash_integers(56, values) ^ hash_integers(56, values ^ np.uint64(1 << bit))
    assert np.unpackbits(changed.view(np.uint8)).mean() == pytest.approx(0.5, abs=0.01)


def test_streams_of_two_seeds_are_uncorrelated() -> None:
    values = np.arange(100_000)
    streams = [uniform(hash_integers(seed, values)) for seed in (1, 2)]
    assert abs(np.corrcoef(streams)[0, 1]) < 0.02


def test_no_two_of_a_million_inputs_share_a_hash() -> None:
    assert np.unique(hash_integers(0, np.arange(1000)[:, None], np.arange(1000))).size == 1_000_000


@given(seed=Integers, values=st.lists(Integers, min_size=1, max_size=20), cut=st.integers(0, 20))
def test_a_hash_does_not_depend_on_the_batch_it_is_made_in(seed: int, values: list[int], cut: int) -> None:
    array = np.array(values, dtype=np.int64)
    whole = hash_integers(seed, array, 5)
    parts = np.concatenate([hash_integers(seed, array[:cut], 5), hash_integers(seed, array[cut:], 5)])
    alone = np.array([hash_integers(seed, value, 5) for value in values])
    assert (whole == parts).all()
    assert (whole == alone).all()


def test_parts_are_broadcast_against_each_other() -> None:
    rows, columns = np.arange(3), np.arange(4)
    grid = hash_integers(9, rows[:, None], columns)
    assert grid.shape == (3, 4)
    assert grid[2, 3] == hash_integers(9, 2, 3)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.int64, np.uint64])
def test_a_hash_does_not_depend_on_the_integer_type(dtype: type) -> None:
    assert (hash_integers(3, np.arange(100, dtype=dtype)) == hash_integers(3, np.arange(100))).all()


def test_the_order_and_number_of_parts_matter() -> None:
    hashes = {
        int(hash_integers(*parts)) for parts in [(1, 2, 3), (1, 3, 2), (2, 1, 3), (1, 2), (1, 2, 0), (1,), (1, 0)]
    }
    assert len(hashes) == 7


def test_hashes_stay_what_they_are() -> None:
    # A new value here makes every corpus that was ever encoded another one.
    assert [hex(int(each)) for each in hash_integers(56, np.arange(2))] == ["0x5f3977d09047eef2", "0xac763e62338a23bb"]


def test_uniform_numbers_lie_in_zero_to_one_and_exclude_one() -> None:
    ends = uniform(np.array([0, 2**64 - 1], dtype=np.uint64))
    assert ends[0] == 0.0
    assert ends[1] < 1.0


def test_generators_of_different_integers_are_different() -> None:
    keys = [(5,), (5, 0), (5, 0, 0), (0, 5), (5, 7), (5 + (7 << 32),), (5, 7 << 32), (5, 0, 7)]
    assert len({generator(*key).integers(2**63) for key in keys}) == len(keys)


def test_a_generator_depends_on_its_integers_only() -> None:
    assert generator(5, 7).random(3).tolist() == generator(5, 7).random(3).tolist()
