from pathlib import Path

import pytest

from distilray.corpus import duplicate_search
from distilray.corpus.duplicate_search import dropped_rows, plan_searches, run_search
from tests.tiny.extraction import extract

WORDS = [f"word{number}" for number in range(400)]
LONG = ". ".join(f"The {' '.join(WORDS[at : at + 8])}" for at in range(0, 400, 8)) + "."
NEARLY = LONG.replace("word3 ", "other ")
OTHER = ". ".join(f"A {' '.join(reversed(WORDS[at : at + 8]))}" for at in range(0, 400, 8)) + "."


def search(folder: Path, texts: list[str], *, documents: int = 10, **values: object) -> dict[int, str]:
    """Run all searches and return the reason for each dropped text by its number."""
    config, counts = extract(folder, texts, **values)
    for stage in plan_searches(config, documents):
        for each in stage:
            run_search(each, config, config.run_dir, [each.number for each in counts])
    dropped = dropped_rows(config.run_dir, 0, len(counts))
    return {chunk: reason for chunk, rows in dropped.items() for reason in rows.values()}


NEAR = {"duplicates": {"near": {}}}


@pytest.mark.parametrize(
    ("texts", "values", "expected"),
    [
        ([LONG, OTHER, LONG.upper(), LONG], {}, {2: "exact_duplicate", 3: "exact_duplicate"}),
        ([NEARLY, OTHER, LONG], {}, {}),
        ([NEARLY, OTHER, LONG], NEAR, {2: "near_duplicate"}),
        ([LONG, LONG, NEARLY], NEAR, {1: "exact_duplicate", 2: "near_duplicate"}),
        ([LONG, LONG], {"duplicates": {"exact": False}}, {}),
    ],
    ids=["equal", "near, not searched", "near", "each for its first reason", "equal, not searched"],
)
def test_the_first_of_duplicates_is_kept(
    tmp_path: Path, texts: list[str], values: dict[str, object], expected: dict[int, str]
) -> None:
    assert search(tmp_path, texts, **values) == expected


def test_slices_have_the_result_of_one_search(tmp_path: Path) -> None:
    texts = [f"{(LONG, OTHER)[number % 2]} This is the number {number // 4}." for number in range(12)]
    near = {"near": {"threshold": 0.95}}
    whole = search(tmp_path / "whole", texts, duplicates=near)
    sliced = search(tmp_path / "sliced", texts, documents=3 * duplicate_search._SLICE_DOCUMENTS, duplicates=near)
    assert sliced == whole
    assert set(whole.values()) == {"exact_duplicate", "near_duplicate"}


def test_each_search_of_a_slice_has_a_file_of_its_own(tmp_path: Path) -> None:
    config, _ = extract(tmp_path, [LONG], duplicates={"near": {}})
    names = [
        each.file("run") for stage in plan_searches(config, 3 * duplicate_search._SLICE_DOCUMENTS) for each in stage
    ]
    assert len(set(names)) == len(names) == 3 * (1 + 1 + 16)


def test_searches_that_run_again_have_the_same_results(tmp_path: Path) -> None:
    config, counts = extract(tmp_path, [LONG, LONG, NEARLY, OTHER], **NEAR)
    searches = [each for stage in plan_searches(config, len(counts)) for each in stage]
    results = []
    for _ in range(2):
        for each in searches:
            run_search(each, config, config.run_dir, [chunk.number for chunk in counts])
        results.append([Path(each.file(config.run_dir)).read_bytes() for each in searches])
    assert results[0] == results[1]
