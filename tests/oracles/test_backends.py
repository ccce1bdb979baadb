"""The oracle of week2/attention_backends agrees with what else PyTorch says about its kernels."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend

from tests.oracles.backends import NAMES, kernels, refusals, usable

PLAIN = (2, 3, 5, 8)


@pytest.mark.parametrize(
    "options",
    [{}, {"is_causal": True}, {"dropout_p": 0.1}, {"attn_mask": torch.ones(5, 5, dtype=torch.bool)}],
    ids=["plain", "causal", "dropout", "mask"],
)
def test_the_backend_that_pytorch_picks_is_one_of_the_usable(options):
    q, k, v = (torch.randn(PLAIN) for _ in range(3))
    picked = SDPBackend(torch._fused_sdp_choice(q, k, v, **options))
    assert picked.name in usable(q, k, v, **options)


def test_every_backend_is_asked():
    assert set(NAMES) | {"ERROR"} == set(SDPBackend.__members__)
    assert set(refusals(*(torch.randn(PLAIN) for _ in range(3)))) == set(NAMES)


def test_reasons_name_what_is_wrong():
    q, k, v = (torch.randn(PLAIN) for _ in range(3))
    (reason,) = refusals(q, k, v[..., :4])["FLASH_ATTENTION"]
    assert "same last dimension" in reason
    (reason,) = refusals(q, k, v, attn_mask=torch.ones(5, 5), is_causal=True)["MATH"]
    assert "is_causal" in reason


def test_kernels_are_told_apart():
    q, k, v = (torch.randn(PLAIN) for _ in range(3))
    assert kernels("MATH", q, k, v) == []
    (flash,) = kernels("FLASH_ATTENTION", q, k, v)
    assert "flash" in flash
