"""Speed of `jobs.encode_corpus` compared to plain tokenization and to BERT's data builder in Python.

    make bench encode_corpus
    PYTHONPATH=platform:. python -m benchmarks.encode_corpus [CORPUS_DIR] [--copies N] [--dupe-factor 10]

Repeats the documents of a corpus (a run folder of `jobs.build_corpus`, such as that of the quickstart). Each copy
shuffles the letters of all words that occur only once, so that it contains as many new words as the first copy; in a
real corpus, new words become rarer. Measures document tokens per second of wall time:
- `jobs.encode_corpus` as a command, (a) including startup and shutdown of Python and Ray, and (b) minus the time of the
  same command for eight documents;
- `encode_batch_fast` of the tokenizers library for the same sentences in memory, with one process per CPU;
- the data builder in Python in one process, for some of the documents.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bert_pretraining_data import examples, write_examples
from benchmarks.inputs import quickstart_run
from benchmarks.results import Result, table
from distilray.config.corpus import BuildCorpusConfig
from distilray.config.sample import resolve_sample
from distilray.pretraining_data.corpus_reader import Corpus
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer
from distilray.runtime.progress import Progress
from distilray.runtime.run_folder import RunFolder

ENCODER = "sample:encoder"
BUILDER_DOCUMENTS = 12
BATCH = 1024


def shuffle_rare_words(documents: list[list[str]], copy: int) -> list[list[str]]:
    """Shuffle the letters of all words that occur only once in the documents."""
    rng = random.Random(copy)
    counts = Counter(word for document in documents for sentence in document for word in sentence.split(" "))
    new = {word: "".join(rng.sample(word, len(word))) for word, count in counts.items() if count == 1}
    return [
        [" ".join(new.get(word, word) for word in sentence.split(" ")) for sentence in document]
        for document in documents
    ]


def write_corpus(folder: Path, table: pa.Table, words: int, copies: int) -> Path:
    """Write a run folder of `build_corpus` with one file per modified copy of the documents."""
    config = BuildCorpusConfig.model_validate({"run_dir": str(folder), "sources": [{"path": "-"}]})
    run = RunFolder("build_corpus", config, {})
    run.begin()
    (folder / "documents").mkdir()
    outputs = {}
    for copy in range(copies):
        name = f"documents/documents-{copy:05d}.parquet"
        sentences = pa.array(
            shuffle_rare_words(table["sentences"].to_pylist(), copy), table.schema.field("sentences").type
        )
        index = table.schema.get_field_index("sentences")
        pq.write_table(
            table.set_column(index, table.schema.field(index), sentences),
            folder / name,
            row_group_size=50,
            compression="zstd",
        )
        outputs[name] = {"rows": len(table), **run.describe_outputs([name])[name]}
    run.finish({"documents": len(table) * copies, "words": words * copies}, outputs, "a corpus")
    return folder


def encode(folder: Path, corpus_dir: Path, cpus: int, length: int, dupe_factor: int) -> tuple[float, int]:
    """Run the command, and return its duration in seconds and the tokens of the documents."""
    values = {
        "run_dir": folder,
        "corpus_dir": corpus_dir,
        "max_seq_length": length,
        "dupe_factor": dupe_factor,
        "chunk_mb": 1,
        "heldout_fraction": 0,
        "ray.num_cpus": cpus,
    }
    recipe = ["--recipe", "jobs/recipes/encode_corpus/quickstart.yaml"]
    command = [
        sys.executable,
        "-m",
        "jobs.encode_corpus",
        *recipe,
        *(f"{key}={value}" for key, value in values.items()),
    ]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    return seconds, json.loads((folder / "manifest.json").read_text())["content"]["counts"]["train"]["document_tokens"]


def count_tokens(sentences: list[str]) -> int:
    """Tokenize the sentences with the tokenizers library."""
    tokenizer = build_tokenizer(read_tokenizer(resolve_sample(ENCODER)))
    return sum(
        sum(map(len, tokenizer.encode_batch_fast(sentences[at : at + BATCH], add_special_tokens=False)))
        for at in range(0, len(sentences), BATCH)
    )


def library_rate(sentences: list[str], cpus: int, copies: int) -> float:
    """Return the tokens per second of `encode_batch_fast` with one running process per CPU."""
    with ProcessPoolExecutor(cpus) as pool:
        list(pool.map(count_tokens, [sentences[:BATCH]] * cpus))
        start = time.perf_counter()
        tokens = sum(pool.map(count_tokens, [sentences] * copies))
        return tokens / (time.perf_counter() - start)


def builder_rate(documents: list[list[str]], length: int, copies: int, folder: Path) -> float:
    """Return the document tokens per second of the data builder in Python."""
    vocabulary = build_tokenizer(read_tokenizer(resolve_sample(ENCODER))).get_vocab()
    tokens = count_tokens([sentence for document in documents for sentence in document])
    start = time.perf_counter()
    with (folder / "plain.jsonl").open("w") as file:
        pairs = examples(documents, vocabulary, max_seq_length=length, dupe_factor=copies)
        assert write_examples(pairs, vocabulary, file)
    return tokens / (time.perf_counter() - start)


def measure(args: argparse.Namespace, folder: Path, progress: Progress) -> list[Result]:
    corpus_dir = args.corpus_dir or quickstart_run("corpus")
    corpus = Corpus.open(corpus_dir)
    table = pa.concat_tables([pq.read_table(f"{corpus_dir}/{name}") for name in corpus.files])
    whole = write_corpus(folder / "whole", table, corpus.words, args.copies)
    tiny = write_corpus(folder / "tiny", table.slice(0, 8), corpus.words // 10, 1)
    documents = shuffle_rare_words(table["sentences"].to_pylist(), args.copies)
    sentences = [sentence for document in documents for sentence in document]
    results, done, library_copies = [], 0, max(2, args.copies // 4)
    for length in args.max_seq_length:
        progress.advance_to(done, "builder in plain Python")
        builder = builder_rate(documents[:BUILDER_DOCUMENTS], length, args.dupe_factor, folder)
        for cpus in args.cpus:
            progress.advance_to(done + 1, "startup of the job")
            fixed, _ = encode(folder / f"tiny-{length}-{cpus}", tiny, cpus, length, args.dupe_factor)
            progress.advance_to(done + 2, "tokenizers library")
            before = library_rate(sentences, cpus, library_copies)
            progress.advance_to(done + 3, "job")
            seconds, tokens = encode(folder / f"whole-{length}-{cpus}", whole, cpus, length, args.dupe_factor)
            done += 4
            progress.advance_to(done, "tokenizers library")
            library = (before + library_rate(sentences, cpus, library_copies)) / 2
            results += [
                Result(
                    f"{length} tokens, {cpus} CPUs, {kind} startup", rate / 1e3, "k tokens/s", goal, peer, other / 1e3
                )
                for kind, rate in (("with", tokens / seconds), ("without", tokens / (seconds - fixed)))
                for peer, other, goal in (
                    ("encode_batch_fast", library, ">= 0.6"),
                    ("BERT's builder", builder, ">= 10"),
                )
            ]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus_dir", nargs="?", help="run of build_corpus (default: that of the quickstart)")
    parser.add_argument("--copies", type=int, default=40)
    parser.add_argument("--dupe-factor", type=int, default=1, help="BERT uses 10")
    parser.add_argument("--cpus", type=int, nargs="+", default=[2])
    parser.add_argument("--max-seq-length", type=int, nargs="+", default=[128])
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress("encode_corpus", total=None, unit="measurements") as progress,
    ):
        print(table(measure(args, Path(folder), progress)))


if __name__ == "__main__":
    main()
