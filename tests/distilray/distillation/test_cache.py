import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from distilray.config.distillation import LossConfig
from distilray.distillation import teacher_cache
from distilray.distillation.cost import cache_bytes
from distilray.distillation.heldout import HeldoutScorer
from distilray.distillation.objective import DistillationLoss, LossDivisors, TensorBatch
from distilray.distillation.teacher_cache import TeacherCache
from distilray.errors import InputError
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.batches import collate
from distilray.schemas import TEACHER_TARGETS
from tests.tiny.models import distant_student, write_teacher
from tests.tiny.shards import open_shards, planned, step_counts
from tests.tiny.teacher_cache import write_cache

# Losses with a KL at every token, at the masked tokens, at another temperature, and without KL.
LOSSES = [
    LossConfig(),
    LossConfig(ce_positions="masked"),
    LossConfig(alpha_mlm=0.0, alpha_cos=0.0, temperature=3.0),
    LossConfig(alpha_ce=0.0),
]
every_loss = pytest.mark.parametrize("losses", LOSSES, ids=lambda losses: losses.model_dump_json(exclude_defaults=True))
FP16 = 1e-3


@pytest.fixture(scope="module")
def shards(shards_dir):
    return open_shards(shards_dir)


@pytest.fixture(scope="module")
def teacher(teacher_dir):
    return load_masked_lm(teacher_dir).requires_grad_(False)


@pytest.fixture(scope="module")
def vocabulary(teacher):
    return teacher.config.vocab_size


@pytest.fixture
def student(teacher):
    return distant_student(teacher)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory, shards_dir, teacher_dir):
    """Return the folder of a cache with some settings, written once."""
    known = {}

    def make(**changes):
        key = json.dumps(changes, sort_keys=True)
        if key not in known:
            known[key] = write_cache(tmp_path_factory.mktemp("cache") / "run", shards_dir, teacher_dir, **changes)
        return known[key]

    return make


@pytest.fixture
def copy(folder_of, tmp_path):
    """Cache that a test may damage, and its first file of the train split."""
    folder = Path(shutil.copytree(folder_of(), tmp_path / "copy"))
    return str(folder), min((folder / "teacher").glob("train-*"))


def whole_vocabulary(folder_of, losses, vocabulary):
    return folder_of(top_k=vocabulary, temperature=losses.temperature)


def run(student, teacher, losses, batch, counts):
    """Return loss, terms and gradients of a batch, with a live teacher or with the cached targets of the batch."""
    student.zero_grad()
    step = DistillationLoss(student, teacher, losses, cached=batch.cached is not None)
    loss, terms = step(batch, counts)
    loss.backward()
    values = {name: term.item() for name, term in terms.items()}
    return loss.item(), values, torch.cat([parameter.grad.flatten() for parameter in student.parameters()])


def batches(shards, rows, targets):
    """Return a batch without and with its cached targets."""
    collated = collate(shards, planned(rows), pad_id=0)
    return TensorBatch.of(collated), TensorBatch.of(collated, targets.of(rows))


@every_loss
def test_with_the_whole_vocabulary_kept_loss_and_gradient_are_those_of_the_teacher(
    shards, student, teacher, folder_of, vocabulary, losses
):
    rows = np.array([40, 3, 11, 65, 12, 3])
    targets = TeacherCache(whole_vocabulary(folder_of, losses, vocabulary), shards, losses.compared_positions)
    counts = step_counts(shards, rows)
    plain, cached = batches(shards, rows, targets)
    loss, terms, gradient = run(student, teacher, losses, plain, counts)
    found, found_terms, found_gradient = run(student, None, losses, cached, counts)
    assert found == pytest.approx(loss, rel=FP16)
    assert found_terms == pytest.approx(terms, rel=FP16)
    assert (found_gradient - gradient).norm() < FP16 * gradient.norm()


@pytest.mark.parametrize("positions", ["all", "masked"])
def test_with_few_tokens_kept_the_kl_is_that_of_these_and_one_event_for_the_rest(
    shards, student, teacher, folder_of, positions
):
    losses, rows, k = LossConfig(alpha_mlm=0.0, alpha_cos=0.0, ce_positions=positions), np.arange(6), 4
    targets = TeacherCache(folder_of(top_k=k), shards, positions)
    plain, cached = batches(shards, rows, targets)
    inputs = {"input_ids": plain.input_ids, "attention_mask": plain.attention_mask}
    with torch.no_grad():
        other = teacher(**inputs, token_type_ids=plain.token_type_ids).logits.flatten(0, 1)
        own = student(**inputs).logits.flatten(0, 1)
    real = plain.attention_mask.flatten().nonzero().flatten()
    where = plain.mask_index if positions == "masked" else real
    p, q = ((logits[where] / losses.temperature).double().softmax(1) for logits in (other, own))
    best = p.topk(k).indices
    p, q = (torch.cat([part.gather(1, best), 1 - part.gather(1, best).sum(1, keepdim=True)], 1) for part in (p, q))
    expected = losses.temperature**2 * (p * (p.log() - q.log())).sum(1).mean().item()
    _, terms, _ = run(student, None, losses, cached, step_counts(shards, rows))
    assert terms["ce"] == pytest.approx(expected, rel=1e-4)


def test_rows_in_any_order_have_their_own_targets(shards, teacher, folder_of):
    targets = TeacherCache(folder_of(), shards, "all")
    rows = np.random.default_rng(0).permutation(len(shards))[:20]
    found, lengths = targets.of(rows), shards.lengths(rows)
    for part, row in zip(np.split(found.hidden.numpy(), np.cumsum(lengths)[:-1]), rows, strict=True):
        alone = TensorBatch.of(collate(shards, planned([row]), pad_id=0, multiple=1))
        with torch.no_grad():
            states = teacher.bert(alone.input_ids, token_type_ids=alone.token_type_ids).last_hidden_state[0]
        np.testing.assert_allclose(part, states.numpy(), atol=5e-3)


def test_the_first_cached_token_is_the_most_probable_and_the_others_follow(shards, folder_of):
    found = TeacherCache(folder_of(), shards, "all").of(np.arange(30))
    assert (found.log_probabilities.diff(dim=1) <= 0).all()
    assert (found.log_probabilities.exp().sum(1) < 1 + 1e-5).all()
    assert all(len(set(ids)) == len(ids) for ids in found.ids.tolist())


def test_a_cache_of_all_tokens_gives_at_the_masked_ones_what_a_cache_of_these_holds(shards, folder_of):
    rows = np.arange(50)[::-3]
    wide, narrow = (
        TeacherCache(folder_of(positions=positions), shards, "masked").of(rows) for positions in ("all", "masked")
    )
    assert len(wide.ids) == shards.mask_counts(rows, np.zeros_like(rows)).sum()
    for one, other in zip(vars(wide).values(), vars(narrow).values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_the_size_of_record_batches_does_not_change_the_targets(
    monkeypatch, shards, folder_of, shards_dir, teacher_dir, tmp_path, rows
):
    expected = TeacherCache(folder_of(), shards, "all").of(np.arange(len(shards)))
    monkeypatch.setattr(teacher_cache, "RECORD_BATCH_ROWS", rows)
    other = TeacherCache(write_cache(tmp_path / "other", shards_dir, teacher_dir), shards, "all")
    found = other.of(np.arange(len(shards)))
    # Batches consist of other rows, so the last digits may differ.
    torch.testing.assert_close(found.hidden, expected.hidden, rtol=0, atol=5e-3)
    torch.testing.assert_close(found.log_probabilities, expected.log_probabilities, rtol=0, atol=1e-4)


@every_loss
def test_heldout_scores_from_a_cache_are_those_of_the_teacher(
    student, teacher, folder_of, shards_dir, vocabulary, losses
):
    shards = open_shards(shards_dir, "heldout")
    targets = TeacherCache(whole_vocabulary(folder_of, losses, vocabulary), shards, losses.compared_positions)

    def score(step, cache):
        scores = HeldoutScorer(
            shards=shards,
            rank=0,
            num_workers=1,
            batch_size=6,
            pad_id=0,
            device=torch.device("cpu"),
            reduce=list,
            on_batch=lambda: None,
            targets=cache,
        )
        return scores.score(step)

    expected = score(DistillationLoss(student, teacher, losses), None)
    found = score(DistillationLoss(student, None, losses, cached=True), targets)
    assert found.keys() == expected.keys()
    assert found["agreement"] == pytest.approx(expected["agreement"], abs=1e-9)
    assert dict(found) == pytest.approx(dict(expected), rel=FP16)


def test_no_masked_token_in_a_micro_batch_is_no_fault(shards, student, folder_of):
    losses, nothing = LossConfig(), torch.empty(0, dtype=torch.long)
    _, batch = batches(shards, np.arange(2), TeacherCache(folder_of(), shards, "all"))
    bare = TensorBatch(batch.input_ids, batch.attention_mask, batch.token_type_ids, nothing, nothing, batch.cached)
    loss, _, _ = run(student, None, losses, bare, LossDivisors(40, 1))
    assert np.isfinite(loss)


def test_a_cache_has_a_file_for_each_shard_with_its_rows(shards_dir, folder_of):
    folder = Path(folder_of())
    content = json.loads((folder / "manifest.json").read_text())["content"]
    encoded = json.loads(Path(shards_dir, "manifest.json").read_text())["content"]["outputs"]
    names = {name.replace("shards/", "teacher/"): entry for name, entry in encoded.items() if "split" in entry}
    assert content["outputs"].keys() == names.keys()
    assert {file.name for file in (folder / "teacher").iterdir()} == {Path(name).name for name in names}
    for name, entry in names.items():
        table = pa.ipc.open_file(folder / name).read_all()
        assert table.schema.metadata == TEACHER_TARGETS.metadata
        assert table.num_rows == entry["rows"] == content["outputs"][name]["rows"]


@pytest.mark.parametrize("positions", ["all", "masked"])
def test_a_cache_is_as_large_as_was_reckoned(shards_dir, teacher, folder_of, positions):
    folder = Path(folder_of(positions=positions, top_k=16))
    reckoned = cache_bytes(shards_dir, dim=teacher.config.hidden_size, top_k=16, positions=positions)
    for split, size in reckoned.items():
        written = sum(file.stat().st_size for file in (folder / "teacher").glob(f"{split}-*"))
        assert written == pytest.approx(size, rel=0.15)  # offsets, and the frame of an Arrow file
        assert written >= size


def test_the_manifest_says_how_much_of_the_probability_is_kept(shards, shards_dir, folder_of, vocabulary):
    counts = json.loads(Path(folder_of(), "manifest.json").read_text())["content"]["counts"]
    logs = TeacherCache(folder_of(), shards, "all").of(np.arange(len(shards))).log_probabilities
    assert counts["train"]["positions"] == len(logs) == shards.tokens
    assert counts["train"]["kept_probability"] == pytest.approx(logs.double().exp().sum(1).mean().item(), abs=1e-5)
    whole = json.loads(Path(folder_of(top_k=vocabulary), "manifest.json").read_text())["content"]["counts"]
    assert whole["heldout"]["kept_probability"] == pytest.approx(1.0, abs=1e-5)


def test_a_missing_file_is_refused_by_name(copy, shards):
    folder, file = copy
    file.unlink()
    with pytest.raises(InputError, match=f"{file.name}: missing"):
        TeacherCache(folder, shards, "all")


def test_a_torn_file_is_refused_by_name(copy, shards):
    folder, file = copy
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=rf"{file.name}: \d+ bytes, but the manifest records"):
        TeacherCache(folder, shards, "all")


def test_a_changed_file_is_refused_by_name_when_it_is_verified(copy, shards):
    folder, file = copy
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=f"{file.name}: its content differs from the manifest"):
        TeacherCache(folder, shards, "all", verify=True)


def test_a_file_that_is_no_arrow_is_refused_by_name(copy, shards):
    folder, file = copy
    file.write_bytes(bytes(file.stat().st_size))
    targets = TeacherCache(folder, shards, "all")
    with pytest.raises(InputError, match=f"{file.name}: not a complete Arrow file"):
        targets.of(np.arange(3))


def test_a_run_of_another_job_is_no_cache(shards_dir, shards):
    with pytest.raises(InputError, match="written by encode_corpus, not by cache_teacher"):
        TeacherCache(shards_dir, shards, "all")


def test_states_that_do_not_fit_16_bits_are_refused(tmp_path, shards_dir, tokenizer_dir, monkeypatch):
    teacher_dir = write_teacher(tmp_path / "teacher", tokenizer_dir)
    model = load_masked_lm(teacher_dir)
    with torch.no_grad():
        model.bert.encoder.layer[-1].output.LayerNorm.weight.fill_(1e6)
    monkeypatch.setattr("distilray.distillation.cache_teacher.load_masked_lm", lambda _: model)
    with pytest.raises(InputError, match="not finite in 16 bits"):
        write_cache(tmp_path / "run", shards_dir, teacher_dir)
