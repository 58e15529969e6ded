import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from distilray.models.flops import ModelSize, model_size, peak_flops, step_flops

SMALL = ModelSize(layers=2, dim=3, hidden_dim=5, vocabulary=7)
COUNTS = {"tokens": 10, "squared_lengths": 52, "head_rows": 3}


def test_flops_of_a_student_alone_are_those_counted_by_hand():
    # A layer has 4*9 + 2*15 = 66 weights, the head 3*3 + 3*7 = 30; two examples of 4 and 6 tokens, 3 rows of the head.
    matrices = 6 * (2 * 66 * 10 + 30 * 3)
    attention = 12 * 2 * 3 * (4**2 + 6**2)
    assert step_flops(SMALL, teacher=None, **COUNTS) == matrices + attention


def test_a_teacher_adds_a_forward_pass_without_the_rows_that_skip_its_head():
    alone = step_flops(SMALL, teacher=None, **COUNTS)
    without_head, with_head = (step_flops(SMALL, teacher=SMALL, teacher_head_rows=rows, **COUNTS) for rows in (0, 3))
    assert 3 * (with_head - alone) == alone
    assert with_head - without_head == 2 * 30 * 3
    assert step_flops(SMALL, teacher=SMALL, **COUNTS) == without_head


def test_the_layers_of_bert_base_have_85_million_weights():
    assert ModelSize(layers=12, dim=768, hidden_dim=3072, vocabulary=30522).layer_parameters == 84_934_656


def test_forward_flops_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    model = BertForMaskedLM._from_config(config, attn_implementation="eager").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.ones(3, 16, dtype=torch.long))
    flops = model_size(model).forward_flops(tokens=48, squared_lengths=3 * 16**2, head_rows=48)
    assert flops == counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("Tesla V100-SXM2-16GB", "fp16", 125e12),
        ("Tesla V100-SXM2-16GB", "bf16", None),
        ("Tesla V100-SXM2-16GB", "fp32", 15.7e12),
        ("Tesla V100-PCIE-32GB", "fp16", 112e12),
        ("Tesla T4", "fp16", 65e12),
        ("Tesla T4", "bf16", None),
        ("NVIDIA A10", "bf16", 125e12),
        ("NVIDIA A30", "bf16", 165e12),
        ("NVIDIA A40", "bf16", 149.7e12),
        ("NVIDIA RTX A6000", "bf16", 154.8e12),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("NVIDIA A100-PCIE-40GB", "fp32", 156e12),
        ("NVIDIA A10G", "bf16", 70e12),
        ("NVIDIA L4", "bf16", 121e12),
        ("NVIDIA L40S", "bf16", 362e12),
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA H200", "fp16", 989e12),
        ("NVIDIA H200", "fp32", 494.5e12),
        ("NVIDIA H20", "bf16", 148e12),
        ("NVIDIA GH200 480GB", "bf16", 989e12),
        ("NVIDIA B200", "bf16", 2250e12),
        ("NVIDIA L40", "bf16", 181e12),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2e12),
        ("NVIDIA GeForce RTX 5090", "fp32", 104.8e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA GeForce RTX 4090 D", "bf16", None),
        ("NVIDIA GB200", "bf16", None),
        ("Tesla P100-PCIE-16GB", "fp16", None),
        ("", "bf16", None),
    ],
)
def test_the_peak_of_a_device_is_that_of_its_data_sheet_or_unknown(name, precision, peak):
    assert peak_flops(name, precision) == peak
