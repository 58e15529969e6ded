import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilray.runtime.seeding import extend_hash, generator, hash_integers, uniform

Integers = st.integers(min_value=0, max_value=2**63 - 1)
COUNT = 100_000


def chi_square(hashed, bins=256):
    """Chi-square of the counts in equal bins, in standard deviations from its mean."""
    counts = np.bincount((uniform(hashed) * bins).astype(int), minlength=bins)
    expected = hashed.size / bins
    return (((counts - expected) ** 2).sum() / expected - (bins - 1)) / np.sqrt(2 * (bins - 1))


@pytest.mark.parametrize(
    "hashed",
    [
        hash_integers(56, np.arange(COUNT)),
        hash_integers(56, 7, np.arange(COUNT)),
        hash_integers(56, np.arange(COUNT), 7),
        hash_integers(56, np.arange(COUNT) << 24),
        hash_integers(56, np.arange(1000)[:, None], np.arange(100)).ravel(),
        np.array([hash_integers(seed, 3) for seed in range(5_000)]),
    ],
    ids=["counter", "last part", "first part", "high bits", "grid", "seeds"],
)
def test_hashes_of_neighboring_integers_are_uniform_and_distinct(hashed):
    assert abs(chi_square(hashed)) < 5
    assert abs(chi_square(hashed << np.uint64(32))) < 5  # the low half as well
    assert np.unique(hashed).size == hashed.size


@pytest.mark.parametrize("bit", [0, 1, 31, 63])
def test_one_changed_bit_of_the_input_changes_half_of_the_bits(bit):
    values = np.arange(4000, dtype=np.uint64)
    changed = hash_integers(56, values) ^ hash_integers(56, values ^ np.uint64(1 << bit))
    assert np.unpackbits(changed.view(np.uint8)).mean() == pytest.approx(0.5, abs=0.01)


def test_streams_of_two_seeds_are_uncorrelated():
    streams = [uniform(hash_integers(seed, np.arange(COUNT))) for seed in (1, 2)]
    assert abs(np.corrcoef(streams)[0, 1]) < 0.02


@settings(max_examples=30)
@given(seed=Integers, values=st.lists(Integers, min_size=1, max_size=20), cut=st.integers(0, 20))
def test_a_hash_does_not_depend_on_the_batch_or_on_the_steps_in_which_it_is_computed(seed, values, cut):
    array = np.array(values, dtype=np.int64)
    hashed = hash_integers(seed, array, 5)
    assert (hashed == np.concatenate([hash_integers(seed, part, 5) for part in (array[:cut], array[cut:])])).all()
    assert (hashed == [hash_integers(seed, value, 5) for value in values]).all()
    assert (hashed == extend_hash(hash_integers(seed, array), 5)).all()


def test_parts_are_broadcast_against_each_other():
    grid = hash_integers(9, np.arange(3)[:, None], np.arange(4))
    assert grid.shape == (3, 4)
    assert grid[2, 3] == hash_integers(9, 2, 3)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.int64, np.uint64])
def test_a_hash_does_not_depend_on_the_integer_type(dtype):
    assert (hash_integers(3, np.arange(100, dtype=dtype)) == hash_integers(3, np.arange(100))).all()


def test_the_order_and_number_of_parts_matter():
    parts = [(1, 2, 3), (1, 3, 2), (2, 1, 3), (1, 2), (1, 2, 0), (1,), (1, 0)]
    assert len({int(hash_integers(*each)) for each in parts}) == len(parts)


def test_hashes_do_not_change_between_versions():
    # A new value would change every encoded corpus.
    assert [hex(int(each)) for each in hash_integers(56, np.arange(2))] == ["0x5f3977d09047eef2", "0xac763e62338a23bb"]


def test_uniform_numbers_include_zero_and_exclude_one():
    assert uniform(np.array([0, 1 << 63, 2**64 - 1], dtype=np.uint64)).tolist() == [0.0, 0.5, 1 - 2.0**-53]


def test_a_generator_depends_on_its_integers_only():
    assert generator(5, 7).random(3).tolist() == generator(5, 7).random(3).tolist()
    keys = [(5,), (5, 0), (5, 0, 0), (0, 5), (5, 7), (5 + (7 << 32),), (5, 7 << 32), (5, 0, 7)]
    assert len({generator(*key).integers(2**63) for key in keys}) == len(keys)
