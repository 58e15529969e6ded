from pathlib import Path

from distilray.corpus.ledger import Ledger


def test_a_piece_is_done_when_its_mark_is_there(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    ledger.begin()
    ledger.mark("parts", 7, {"documents": 3})
    assert ledger.done("parts") == {7}
    assert ledger.done("files") == set()


def test_facts_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    for number in range(300):
        ledger.mark("files", number, {"number": number})
    wanted = list(reversed(range(300)))
    assert [facts["number"] for facts in ledger.facts("files", wanted)] == wanted


def test_marks_outlive_the_files_of_work(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    ledger.begin()
    Path(ledger.part_file(1)).write_bytes(b"documents")
    ledger.mark("parts", 1, {})
    ledger.remove_work()
    assert ledger.done("parts") == {1}
    assert not Path(ledger.part_file(1)).exists()


def test_only_parts_with_something_in_quarantine_are_listed(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    ledger.begin()
    Path(ledger.quarantine_file(2)).write_text("{}\n")
    assert ledger.quarantined([1, 2, 3]) == [2]
