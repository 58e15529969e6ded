import json

import pytest

from distilray.errors import InputError
from distilray.runtime import pieces
from distilray.runtime.pieces import CompletedPieces, run_pieces


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(pieces, "run_tasks", lambda items, task, **_: map(task, items))


@pytest.fixture
def completed(tmp_path):
    return CompletedPieces(str(tmp_path), "parts")


def run(completed, numbers, task, **options):
    items = [{"number": number} for number in numbers]
    return list(run_pieces(items, task, completed, **{"job": "job", "label": "job", "unit": "pieces", **options}))


def square(item):
    return {"square": item["number"] ** 2}


def test_the_records_are_returned_in_the_order_of_the_pieces(completed):
    numbers = list(reversed(range(150)))
    assert run(completed, numbers, square) == [{"square": number**2} for number in numbers]


def test_only_the_incomplete_pieces_run_and_each_is_recorded_after_its_task(completed):
    for number in (0, 2, 5):
        completed.add(number, square({"number": number}))
    before = []

    def watched(item):
        before.append((item["number"], sorted(completed.numbers())))
        return square(item)

    assert [record["square"] for record in run(completed, range(6), watched)] == [0, 1, 4, 9, 16, 25]
    assert before == [(1, [0, 2, 5]), (3, [0, 1, 2, 5]), (4, [0, 1, 2, 3, 5])]


def test_a_piece_whose_task_fails_is_not_complete(completed):
    def fail_at_two(item):
        if item["number"] == 2:
            raise InputError("piece 2: cannot be read")
        return square(item)

    with pytest.raises(InputError, match="piece 2"):
        run(completed, range(4), fail_at_two)
    assert completed.numbers() == {0, 1}


def test_a_record_is_one_json_file_of_its_phase(tmp_path, completed):
    completed.add(3, {"documents": 2})
    assert json.loads((tmp_path / "pieces/parts/000003.json").read_text()) == {"documents": 2}
    assert CompletedPieces(str(tmp_path), "files").numbers() == set()


@pytest.mark.parametrize(
    ("size", "start", "counts"),
    [(1 << 10, 2, ["3/4 kB", "4/4 kB"]), (25 << 20, 51200, ["76,800/102,400 kB"]), (1 << 26, 128, ["192/256 MB"])],
    ids=["kB", "100 MB", "more"],
)
def test_progress_shows_bytes_including_earlier_runs_and_the_count_of_this_run(
    completed, monkeypatch, size, start, counts
):
    lines, starts = [], []

    class Recorded(pieces.Progress):
        def start_at(self, done):
            super().start_at(done)
            starts.append(done)

        def advance_to(self, done, note=""):
            super().advance_to(done, note)
            lines.append(self.line(1.0))

    monkeypatch.setattr(pieces, "Progress", Recorded)
    for number in (0, 1):
        completed.add(number, square({"number": number}))
    run(completed, range(4), square, unit="bytes", size=lambda item: size, count_key="square")
    assert starts == [start]
    assert all(f": {count} (" in line for count, line in zip(counts, lines, strict=False))
    assert [line.rpartition(", ")[2] for line in lines] == ["4 square", "13 square"]
