"""Datasets of Ray Data over a dump, documents and shards have the rows that the stages write."""

import bz2
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data

import distilray as dr
from distilray import data
from distilray.errors import InputError
from distilray.runtime.run_folder import read_manifest
from distilray.schemas import DOCUMENTS, EXAMPLES
from tests.tiny.corpus import write_corpus
from tests.tiny.dumps import dump, page, write
from tests.tiny.extraction import LENIENT
from tests.tiny.shards import write_shards

TEXT = "The town {0} has a market. People of {0} meet there every week."
PAGES = [page(number, f"Town {number}", TEXT.format(f"N{number}")) for number in range(1, 40)]
REDIRECT = page(99, "Gone", "#REDIRECT [[Town 1]]")
MASKS = ["input_ids", "mask_positions", "mask_labels"]


@pytest.fixture
def without_ray(monkeypatch):
    """The functions return their datasource."""
    monkeypatch.setattr(ray.data, "read_datasource", lambda source: source)


def rows_of(source):
    """The rows that the read tasks of a datasource return, one task after another."""
    return pa.concat_tables([table for task in source.get_read_tasks(1) for table in task()])


def written_shards(run, split):
    """The rows of the Arrow files of a split, in the order of the manifest."""
    entries = read_manifest(str(run))["content"]["outputs"]
    names = [name for name, entry in entries.items() if entry.get("split") == split]
    return pa.concat_tables([pa.ipc.open_file(Path(run, name)).read_all() for name in names])


@pytest.mark.usefixtures("without_ray")
class TestReadTasks:
    def test_every_article_of_a_dump_is_read_once_in_ranges(self, tmp_path):
        plain = write(tmp_path, dump(*PAGES, REDIRECT))
        source = data.read_dump(plain, filters=LENIENT, chunk_mb=0.002)
        assert len(source.get_read_tasks(1)) > 2
        rows = rows_of(source)
        compressed = write(tmp_path, bz2.compress(dump(*PAGES)), "wiki.xml.bz2")
        assert (
            rows_of(data.read_dump(compressed, filters=LENIENT)).drop_columns("file").equals(rows.drop_columns("file"))
        )
        assert rows.schema.equals(DOCUMENTS)
        assert rows["title"].to_pylist() == [f"Town {number}" for number in range(1, 40)]
        assert rows["sentences"][0].as_py() == ["The town N1 has a market.", "People of N1 meet there every week."]

    def test_documents_are_the_rows_of_the_files(self, tmp_path):
        run = write_corpus(tmp_path / "corpus", files=3)
        source = data.read_documents(run)
        assert [task.metadata.num_rows for task in source.get_read_tasks(1)] == [14, 13, 13]
        assert rows_of(source).equals(pq.read_table(tmp_path / "corpus" / "documents"))

    @pytest.mark.parametrize("split", ["train", "heldout"])
    def test_examples_are_the_rows_of_the_shards(self, shards_dir, split):
        rows = rows_of(data.read_shards(shards_dir, split=split))
        assert rows.schema.equals(EXAMPLES)
        assert rows.equals(written_shards(shards_dir, split))

    def test_a_split_without_rows_is_refused(self, shards_dir):
        with pytest.raises(InputError, match="split 'dev'"):
            data.read_shards(shards_dir, split="dev")

    def test_a_read_task_stops_at_the_row_limit(self, shards_dir):
        first = data.read_shards(shards_dir).get_read_tasks(1, per_task_row_limit=3)[0]
        assert sum(table.num_rows for table in first()) == 3

    def test_a_damaged_page_is_an_error_unless_it_is_skipped(self, tmp_path):
        file = write(tmp_path, dump(PAGES[0], PAGES[1].replace("<id>2</id>", "<id>x</id>")))
        with pytest.raises(InputError, match=r"wiki.xml: byte .*skip_damaged"):
            rows_of(data.read_dump(file, filters=LENIENT))
        assert len(rows_of(data.read_dump(file, filters=LENIENT, skip_damaged=True))) == 1

    def test_a_dump_that_is_cut_short_is_an_error_unless_it_is_accepted(self, tmp_path):
        file = write(tmp_path, dump(*PAGES)[:-20])  # in the last page
        with pytest.raises(InputError, match=r"cut short.*skip_damaged"):
            data.read_dump(file, filters=LENIENT)
        assert len(rows_of(data.read_dump(file, filters=LENIENT, skip_damaged=True))) == 38

    def test_a_changed_shard_is_refused_by_its_task(self, tmp_path, tokenizer_dir):
        run = Path(write_shards(tmp_path / "run", tokenizer_dir))
        source = data.read_shards(run)
        shard = next(run.glob("shards/*train*.arrow"))
        shard.write_bytes(shard.read_bytes()[:-1] + b"x")
        with pytest.raises(InputError, match="sha256"):
            rows_of(source)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda folder: data.read_dump(folder / "absent.xml"), "absent.xml: no such file"),
        (lambda folder: data.read_dump(folder / "text.xml"), "text.xml"),
        (lambda folder: data.read_dump(folder / "text.xml", filters={"min_word": 1}), "min_word"),
        (lambda folder: data.read_documents(folder), "no manifest.json"),
        (lambda folder: data.read_shards(folder), "no manifest.json"),
    ],
)
def test_bad_input_is_refused_by_the_caller(tmp_path, read, message):
    write(tmp_path, b"Just a text.", "text.xml")
    with pytest.raises(InputError, match=message):
        read(tmp_path)


@pytest.fixture
def masker(shards_dir):
    return data.read_masker(shards_dir)


@pytest.fixture
def train(shards_dir):
    return written_shards(shards_dir, "train")


class TestMaskBatch:
    def test_epoch_0_has_the_masks_of_the_shards(self, tmp_path, tokenizer_dir, train, masker):
        assert data.mask_batch(train, masker=masker).equals(train)
        dynamic = write_shards(tmp_path / "dynamic", tokenizer_dir, masking={"dynamic": True})
        rows = written_shards(dynamic, "train")
        assert not any(map(len, rows["mask_labels"].to_pylist()))
        assert data.mask_batch(rows, masker=data.read_masker(dynamic)).equals(train)

    def test_another_epoch_masks_the_same_text_at_other_positions(self, train, masker):
        other = data.mask_batch(train, masker=masker, epoch=1)
        assert other["mask_positions"] != train["mask_positions"]
        assert data.mask_batch(other, masker=masker, epoch=0).equals(train)

    def test_the_masks_do_not_depend_on_the_batch(self, train, masker):
        whole = data.mask_batch(train, masker=masker, epoch=2)
        slices = [train.slice(0, 0), train.slice(0, 7), train.slice(7)]
        assert pa.concat_tables([data.mask_batch(rows, masker=masker, epoch=2) for rows in slices]).equals(whole)

    @pytest.mark.parametrize(
        ("batch", "message"),
        [({"input_ids": []}, "batch_format"), (pa.table({"input_ids": pa.array([[1]])}), "no column example_id")],
    )
    def test_another_batch_is_refused(self, masker, batch, message):
        with pytest.raises(InputError, match=message):
            data.mask_batch(batch, masker=masker)


def sorted_rows(dataset, key):
    return pa.concat_tables(dataset.iter_batches(batch_format="pyarrow", batch_size=None)).sort_by(key)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_ray_data_reads_a_dump_and_its_documents(tmp_path):
    run = dr.build_corpus(sources=[{"path": "sample:wikipedia"}], run_dir=tmp_path / "corpus")
    expected = pq.read_table(tmp_path / "corpus" / "documents").sort_by("doc_id")
    assert len(expected) > 90
    for dataset in (data.read_documents(run), data.read_dump("sample:wikipedia", chunk_mb=0.5)):
        assert sorted_rows(dataset, "doc_id").equals(expected)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_ray_data_reads_shards_and_masks_batches(shards_dir, train, masker):
    masked = data.read_shards(shards_dir).map_batches(
        data.mask_batch, fn_kwargs={"masker": masker, "epoch": 1}, batch_format="pyarrow", batch_size=16
    )
    expected = data.mask_batch(train, masker=masker, epoch=1)
    for name in ["example_id", *MASKS]:
        assert sorted_rows(masked, "example_id")[name].to_pylist() == expected.sort_by("example_id")[name].to_pylist()
