import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from distilray.errors import InputError
from distilray.runtime import pieces
from distilray.runtime.pieces import CompletedPieces, run_pieces

Values = dict[str, Any]


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_by_one(items: Sequence[Values], task: Callable[[Values], Values], **_: object) -> Iterator[Values]:
        return map(task, items)

    monkeypatch.setattr(pieces, "run_tasks", one_by_one)


def run(completed: CompletedPieces, numbers: Sequence[int], task: Callable[[Values], Values]) -> list[Values]:
    items = [{"number": number} for number in numbers]
    return list(run_pieces(items, task, completed, job="job", label="job", unit="pieces"))


def square(item: Values) -> Values:
    return {"square": item["number"] ** 2}


def test_the_records_are_returned_in_the_order_of_the_pieces(tmp_path: Path) -> None:
    numbers = list(reversed(range(150)))
    assert run(CompletedPieces(str(tmp_path), "parts"), numbers, square) == [{"square": n**2} for n in numbers]


def test_only_pieces_that_are_not_complete_run_whichever_they_are(tmp_path: Path) -> None:
    completed, ran = CompletedPieces(str(tmp_path), "parts"), []
    for number in (0, 2, 5):
        completed.add(number, {"square": number**2})

    def noted(item: Values) -> Values:
        ran.append(item["number"])
        return square(item)

    assert [record["square"] for record in run(completed, range(6), noted)] == [0, 1, 4, 9, 16, 25]
    assert ran == [1, 3, 4]


def test_a_piece_whose_task_fails_is_not_complete(tmp_path: Path) -> None:
    completed = CompletedPieces(str(tmp_path), "parts")

    def fail_at_two(item: Values) -> Values:
        if item["number"] == 2:
            raise InputError("piece 2: cannot be read")
        return square(item)

    with pytest.raises(InputError, match="piece 2"):
        run(completed, range(4), fail_at_two)
    assert completed.numbers() == {0, 1}


def test_a_piece_is_recorded_after_its_task(tmp_path: Path) -> None:
    completed = CompletedPieces(str(tmp_path), "parts")

    def look(item: Values) -> Values:
        return {"before": sorted(completed.numbers())}

    assert run(completed, range(3), look) == [{"before": []}, {"before": [0]}, {"before": [0, 1]}]


def test_stages_of_a_run_are_apart(tmp_path: Path) -> None:
    CompletedPieces(str(tmp_path), "parts").add(7, {})
    assert CompletedPieces(str(tmp_path), "files").numbers() == set()


@pytest.mark.parametrize(("size", "start", "shown"), [(1 << 10, 2, "3/4 kB"), (1 << 26, 128, "192/256 MB")])
def test_bytes_of_earlier_runs_count_as_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, start: int, shown: str
) -> None:
    lines, starts = [], []

    class Noted(pieces.Progress):
        def start_at(self, done: int) -> None:
            super().start_at(done)
            starts.append(done)

        def advance_to(self, done: int, note: str = "") -> None:
            super().advance_to(done, note)
            lines.append(self.line(1.0))

    monkeypatch.setattr(pieces, "Progress", Noted)
    completed = CompletedPieces(str(tmp_path), "parts")
    for number in (0, 1):
        completed.add(number, square({"number": number}))
    items = [{"number": number} for number in range(4)]
    run_pieces(items, square, completed, job="j", label="j", unit="bytes", size=lambda _: size, count_key="square")
    assert starts == [start]
    assert shown in lines[0]
    assert [line.rpartition(", ")[2] for line in lines] == ["4 square", "13 square"]


def test_a_record_is_one_json_file(tmp_path: Path) -> None:
    CompletedPieces(str(tmp_path), "parts").add(3, {"documents": 2})
    assert json.loads((tmp_path / "pieces/parts/000003.json").read_text()) == {"documents": 2}
