import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from distilray.config.cache_teacher import SAMPLES, TOP_K
from distilray.config.distillation import LossConfig
from distilray.distillation import teacher_cache
from distilray.distillation.cost import cache_bytes
from distilray.distillation.objective import DistillationLoss, LossDivisors, TensorBatch
from distilray.distillation.teacher_cache import TeacherCache
from distilray.distillation.teachers import CachedTargets, CachedTeacher, most_probable, quantize, sample_tokens
from distilray.errors import InputError
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.batches import collate
from distilray.schemas import TEACHER_TARGETS
from tests.tiny.models import write_teacher
from tests.tiny.shards import planned, step_counts
from tests.tiny.teacher_cache import write_cache

# Losses with a KL at every token, at the masked tokens, at another temperature, and without KL.
LOSSES = [
    LossConfig(),
    LossConfig(ce_positions="masked"),
    LossConfig(alpha_mlm=0.0, alpha_cos=0.0, temperature=3.0),
    LossConfig(alpha_ce=0.0),
]
every_loss = pytest.mark.parametrize("losses", LOSSES, ids=lambda losses: losses.model_dump_json(exclude_defaults=True))
ALL, MASKED = LossConfig(), LossConfig(ce_positions="masked")
FP16 = 2**-11  # relative error of a rounded number


@pytest.fixture(scope="module")
def vocabulary_size(teacher):
    return teacher.config.vocab_size


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory, shards_dir, teacher_dir):
    """Return the folder of a cache with some settings, written once."""
    folders = {}

    def write(**changes):
        key = json.dumps(changes, sort_keys=True)
        if key not in folders:
            folders[key] = write_cache(tmp_path_factory.mktemp("cache") / "run", shards_dir, teacher_dir, **changes)
        return folders[key]

    return write


def run(student, teacher, losses, batch, counts):
    """Return loss, terms and gradients of a batch, with a live teacher or with the cached targets of the batch."""
    student.zero_grad()
    loss, terms = DistillationLoss(student, teacher, losses, cached=batch.cached is not None)(batch, counts)
    loss.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in student.parameters()])
    return loss.item(), {name: term.item() for name, term in terms.items()}, gradient


def batches_of(shards, rows, targets):
    """Return a batch without and with its cached targets."""
    collated = collate(shards, planned(rows), pad_id=0)
    return TensorBatch.of(collated), TensorBatch.of(collated, targets.of(rows))


@every_loss
def test_a_cache_with_the_whole_vocabulary_gives_the_loss_and_gradient_of_the_teacher(
    shards, student, teacher, cache_dir, vocabulary_size, losses
):
    rows = np.array([40, 3, 11, 65, 12, 3])
    folder = cache_dir(top_k=vocabulary_size, temperature=losses.temperature)
    counts = step_counts(shards, rows)
    plain, cached = batches_of(shards, rows, TeacherCache(folder, shards, losses))
    loss, terms, gradient = run(student, None, losses, cached, counts)
    expected_loss, expected_terms, expected_gradient = run(student, teacher, losses, plain, counts)
    assert loss == pytest.approx(expected_loss, rel=1e-3)
    assert terms == pytest.approx(expected_terms, rel=1e-3)
    assert (gradient - expected_gradient).norm() < 5e-3 * expected_gradient.norm()


@pytest.mark.parametrize("positions", ["all", "masked"])
def test_the_kl_of_a_small_cache_counts_all_other_tokens_as_one_event(shards, student, teacher, cache_dir, positions):
    losses, rows, k = LossConfig(alpha_mlm=0.0, alpha_cos=0.0, ce_positions=positions), np.arange(6), 4
    plain, cached = batches_of(shards, rows, TeacherCache(cache_dir(top_k=k), shards, losses))
    inputs = {"input_ids": plain.input_ids, "attention_mask": plain.attention_mask}
    with torch.no_grad():
        teacher_logits = teacher(**inputs, token_type_ids=plain.token_type_ids).logits.flatten(0, 1)
        student_logits = student(**inputs).logits.flatten(0, 1)
    selected = plain.mask_index if positions == "masked" else plain.attention_mask.flatten().nonzero().flatten()
    p, q = ((logits[selected] / losses.temperature).double().softmax(1) for logits in (teacher_logits, student_logits))
    best = p.topk(k).indices
    p, q = (torch.cat([each.gather(1, best), 1 - each.gather(1, best).sum(1, keepdim=True)], 1) for each in (p, q))
    expected = losses.temperature**2 * (p * (p.log() - q.log())).sum(1).mean().item()
    _, terms, _ = run(student, None, losses, cached, step_counts(shards, rows))
    assert terms["ce"] == pytest.approx(expected, rel=5e-3)  # log probabilities have 11 bits


def test_each_row_has_its_own_targets_within_the_rounding_in_any_order(shards, teacher, cache_dir):
    rows = np.random.default_rng(0).permutation(len(shards))[:20]
    targets, ends = TeacherCache(cache_dir(), shards, ALL).of(rows), np.cumsum(shards.lengths(rows))
    columns = (np.split(values.numpy(), ends[:-1]) for values in vars(targets).values())
    for row, hidden, scales, ids, log_probabilities, rest in zip(rows, *columns, strict=True):
        batch = TensorBatch.of(collate(shards, planned([row]), pad_id=0, multiple=1))
        with torch.no_grad():
            states = teacher.bert(batch.input_ids, token_type_ids=batch.token_type_ids).last_hidden_state
            log_p = (teacher.cls(states)[0] / 2.0).double().log_softmax(-1)
        best = log_p.topk(8)
        largest = states[0].abs().amax(dim=1, keepdim=True).numpy()
        assert (np.abs(hidden * scales - states[0].numpy()) <= largest / 254 + 1e-5).all()
        np.testing.assert_allclose(log_probabilities, best.values.numpy(), rtol=FP16, atol=1e-5)
        assert (ids == best.indices.numpy()).mean() > 0.99  # two tokens may have nearly the same probability
        np.testing.assert_allclose(rest, log_p.exp().scatter(1, best.indices, 0).sum(1, keepdim=True), rtol=1e-4)


def test_hidden_states_are_rounded_to_a_254th_of_their_largest_value():
    hidden = torch.randn(40, 768, generator=torch.Generator().manual_seed(0)) * torch.logspace(-20, 20, 40)[:, None]
    hidden[7], hidden[8, 3] = 0.0, 1e3
    values, scales = quantize(hidden)
    assert values.dtype == torch.int8
    largest = hidden.abs().amax(dim=1, keepdim=True)
    assert ((values * scales - hidden).abs() <= largest / 254 * (1 + 1e-5)).all()


def test_the_remaining_probability_of_a_certain_teacher_is_exact():
    # In fp32, 1 - 3e-9 is 1.
    logits = torch.tensor([[0.0, math.log(2e-9), math.log(1e-9)]])
    targets = CachedTargets(torch.empty(0), torch.empty(0), *most_probable(logits, top_k=1, temperature=1.0))
    sparse = CachedTeacher(targets, True, torch.ones(1, 1), torch.zeros(1)).targets(torch.zeros(1))
    assert sparse.rest.item() == pytest.approx(3e-9, rel=1e-5)
    assert sparse.log_probabilities.item() == pytest.approx(-3e-9, rel=1e-5)


def test_the_expected_weight_of_every_token_is_its_probability():
    probabilities = torch.tensor([0.3, 0.05, 0.2, 0.0001, 0.1, 0.15, 0.0499, 0.15]).expand(100_000, -1)
    generator = torch.Generator().manual_seed(0)
    ids, log_weights, rest = sample_tokens(probabilities, top_k=1, samples=3, generator=generator)
    weights = torch.zeros_like(probabilities).scatter(1, ids, log_weights.float().exp())
    error = weights.std(dim=0) / math.sqrt(len(weights))
    assert ((weights.mean(dim=0) - probabilities[0]).abs() < 5 * error + 2 * FP16 * probabilities[0]).all()
    assert (ids[:, 0] == 0).all()
    assert (ids.sort(dim=1).values.diff(dim=1) > 0).all()  # no token twice
    assert rest.sum() == 0


def test_stored_probabilities_add_up_to_1_with_the_rest(shards, cache_dir):
    batch = TensorBatch.of(collate(shards, planned([4, 9]), pad_id=0))
    targets = TeacherCache(cache_dir(), shards, ALL).of(np.array([4, 9]))
    sparse = CachedTeacher(targets, True, batch.attention_mask, batch.mask_index).targets(
        torch.arange(len(targets.ids))
    )
    total = sparse.log_probabilities.double().exp().sum(1, keepdim=True) + sparse.rest
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)


def test_a_cache_of_all_positions_also_has_the_targets_at_masked_positions(shards, cache_dir):
    rows = np.arange(50)[::-3]
    wide, narrow = (
        TeacherCache(cache_dir(positions=positions), shards, MASKED).of(rows) for positions in ("all", "masked")
    )
    assert len(wide.ids) == shards.mask_counts(rows, np.zeros_like(rows)).sum()
    for one, other in zip(vars(wide).values(), vars(narrow).values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("batch_rows", [1, 7, 1000])
def test_the_size_of_record_batches_does_not_change_the_targets(
    monkeypatch, shards, cache_dir, shards_dir, teacher_dir, tmp_path, batch_rows
):
    rows = np.arange(len(shards))
    expected = TeacherCache(cache_dir(), shards, ALL).of(rows)
    monkeypatch.setattr(teacher_cache, "RECORD_BATCH_ROWS", batch_rows)
    monkeypatch.setattr(teacher_cache, "_LOGIT_ROWS", batch_rows)
    targets = TeacherCache(write_cache(tmp_path / "other", shards_dir, teacher_dir), shards, ALL).of(rows)
    # The teacher reads other batches, so the last digits may differ, and values are rounded to the next ones.
    hidden, expected_hidden = (each.hidden * each.scales for each in (targets, expected))
    torch.testing.assert_close(hidden, expected_hidden, rtol=0, atol=expected.scales.max().item() * 1.001)
    torch.testing.assert_close(targets.log_probabilities, expected.log_probabilities, rtol=2 * FP16, atol=1e-5)


def test_a_micro_batch_may_have_no_masked_token(shards, student, cache_dir):
    _, batch = batches_of(shards, np.arange(2), TeacherCache(cache_dir(), shards, ALL))
    empty = torch.empty(0, dtype=torch.long)
    batch = replace(batch, mask_index=empty, mask_labels=empty)
    loss, _, _ = run(student, None, LossConfig(), batch, LossDivisors(40, 1))
    assert np.isfinite(loss)


def test_a_cache_has_one_file_per_shard_with_the_same_number_of_rows(shards_dir, cache_dir):
    folder = Path(cache_dir())
    outputs, encoded = (
        json.loads(Path(run_dir, "manifest.json").read_text())["content"]["outputs"] for run_dir in (folder, shards_dir)
    )
    rows = {name.replace("shards/", "teacher/"): each["rows"] for name, each in encoded.items() if "split" in each}
    assert {name: entry["rows"] for name, entry in outputs.items()} == rows
    assert {file.name for file in (folder / "teacher").iterdir()} == {Path(name).name for name in rows}
    for name in rows:
        table = pa.ipc.open_file(folder / name).read_all()
        assert table.schema.metadata == TEACHER_TARGETS.metadata
        assert table.num_rows == rows[name]


@pytest.mark.parametrize("changes", [{}, {"positions": "masked"}, {"hidden_states": False}], ids=str)
def test_the_estimated_size_is_slightly_below_the_actual_one(shards_dir, teacher, cache_dir, changes):
    folder = Path(cache_dir(top_k=16, **changes))
    settings = {"positions": "all", "hidden_states": True, **changes}
    estimate = cache_bytes(shards_dir, dim=teacher.config.hidden_size, stored=16, **settings)
    assert sorted(estimate) == ["heldout", "train"]
    for split, size in estimate.items():
        written = sum(file.stat().st_size for file in (folder / "teacher").glob(f"{split}-*"))
        assert written == pytest.approx(size, rel=0.3)  # offsets, and the frame of an Arrow file
        assert written >= size


@pytest.mark.parametrize(("hidden_states", "limit"), [(True, 1000), (False, 200)])
def test_a_token_of_bert_base_takes_few_bytes(shards_dir, shards, tmp_path, tokenizer_dir, hidden_states, limit):
    estimate = cache_bytes(shards_dir, dim=768, stored=TOP_K + SAMPLES, positions="all", hidden_states=hidden_states)
    assert estimate["train"] <= limit * shards.tokens
    teacher = write_teacher(tmp_path / "teacher", tokenizer_dir, layers=1, dim=768)
    folder = write_cache(
        tmp_path / "run", shards_dir, teacher, top_k=TOP_K, samples=SAMPLES, hidden_states=hidden_states
    )
    written = sum(file.stat().st_size for file in Path(folder, "teacher").glob("train-*"))
    overhead = 20 * len(shards) + 4096 * len(shards.names)  # five offsets per row, and the frame of an Arrow file
    assert written <= limit * shards.tokens + overhead


def test_a_cache_without_hidden_states_suits_losses_without_cosine(shards, student, cache_dir):
    losses, rows = LossConfig(alpha_cos=0.0), np.arange(6)
    results = [
        run(
            student,
            None,
            losses,
            batches_of(shards, rows, TeacherCache(folder, shards, losses))[1],
            step_counts(shards, rows),
        )
        for folder in (cache_dir(), cache_dir(hidden_states=False))
    ]
    assert results[0][:2] == results[1][:2]
    assert torch.equal(results[0][2], results[1][2])


def test_hidden_states_are_only_read_for_losses_that_use_them(shards, cache_dir):
    with_cosine, without = (
        TeacherCache(cache_dir(), shards, LossConfig(alpha_cos=weight)).of(np.arange(3)) for weight in (1.0, 0.0)
    )
    assert len(with_cosine.hidden) == len(with_cosine.scales) == shards.lengths(np.arange(3)).sum()
    assert len(without.hidden) == len(without.scales) == 0


def test_the_manifest_contains_the_share_of_the_probability_that_is_stored(shards, cache_dir, vocabulary_size):
    counts, whole = (
        json.loads(Path(folder, "manifest.json").read_text())["content"]["counts"]
        for folder in (cache_dir(), cache_dir(top_k=vocabulary_size, temperature=2.0))
    )
    logs = TeacherCache(cache_dir(), shards, ALL).of(np.arange(len(shards))).log_probabilities
    assert counts["train"]["positions"] == len(logs) == shards.tokens
    assert counts["train"]["kept_probability"] == pytest.approx(logs.double().exp().sum(1).mean().item(), abs=1e-5)
    assert whole["heldout"]["kept_probability"] == pytest.approx(1.0, abs=1e-5)


def flip_byte(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "missing": (Path.unlink, "missing"),
    "truncated": (lambda file: file.write_bytes(file.read_bytes()[:-100]), r"\d+ bytes, but the manifest records"),
    "changed": (flip_byte, "its content differs from the manifest"),
    "not Arrow": (lambda file: file.write_bytes(bytes(file.stat().st_size)), "not a complete Arrow file"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_refused_by_name(cache_dir, shards, tmp_path, damage, message):
    folder = Path(shutil.copytree(cache_dir(), tmp_path / "copy"))
    file = min((folder / "teacher").glob("train-*"))
    damage(file)
    with pytest.raises(InputError, match=f"{file.name}: {message}"):
        # Only a verification of the content detects the same number of other bytes.
        TeacherCache(str(folder), shards, ALL, verify=damage is flip_byte).of(np.arange(3))


def test_a_run_of_another_job_is_refused(shards_dir, shards):
    with pytest.raises(InputError, match="written by encode_corpus, not by cache_teacher"):
        TeacherCache(shards_dir, shards, ALL)


@pytest.mark.parametrize("hidden_states", [True, False])
def test_outputs_that_are_not_finite_are_refused(tmp_path, shards_dir, teacher_dir, monkeypatch, hidden_states):
    model = load_masked_lm(teacher_dir)
    with torch.no_grad():
        model.bert.encoder.layer[-1].output.LayerNorm.weight.fill_(math.inf)
    monkeypatch.setattr("distilray.distillation.cache_teacher.load_masked_lm", lambda _: model)
    with pytest.raises(InputError, match="outputs are not finite"):
        write_cache(tmp_path / "run", shards_dir, teacher_dir, hidden_states=hidden_states)


def test_the_teacher_is_loaded_once_for_all_shards(tmp_path, shards_dir, teacher_dir, monkeypatch):
    loads = []

    def load(folder):
        loads.append(folder)
        return load_masked_lm(folder)

    monkeypatch.setattr("distilray.distillation.cache_teacher.load_masked_lm", load)
    folder = Path(write_cache(tmp_path / "run", shards_dir, teacher_dir))
    assert len(list(folder.glob("teacher/*"))) > 1
    assert len(loads) == 2  # once for its size


def test_a_cache_of_an_earlier_version_is_refused(cache_dir, shards, tmp_path):
    folder = Path(shutil.copytree(cache_dir(), tmp_path / "copy"))
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["content"]["counts"]["schema"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"not a cache of schema teacher_targets/2; .* run jobs\.cache_teacher again"):
        TeacherCache(str(folder), shards, ALL)


def test_samples_are_the_same_in_every_run_and_come_after_the_most_probable_tokens(
    tmp_path, shards, shards_dir, teacher_dir, cache_dir
):
    folders = [write_cache(tmp_path / name, shards_dir, teacher_dir, samples=5) for name in ("one", "other")]
    contents = [json.loads(Path(folder, "manifest.json").read_text())["content_hash"] for folder in folders]
    assert contents[0] == contents[1]
    rows = np.arange(5)
    with_samples, without = (TeacherCache(folder, shards, ALL).of(rows) for folder in (folders[0], cache_dir()))
    assert torch.equal(with_samples.ids[:, :8], without.ids)
    assert with_samples.ids.shape[1] == 13
