"""One function answers for all backends at once; the others look up its answer."""

import contextlib
import io
import warnings

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

ALL = tuple(b for name, b in SDPBackend.__members__.items() if name != "ERROR")


@contextlib.contextmanager
def recorded(lines: io.StringIO):
    generator = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    with warnings.catch_warnings(record=True, action="always") as heard:
        try:
            yield
        finally:
            lines.writelines(str(w.message) + "\n" for w in heard)
            torch.set_rng_state(generator)
            if cuda:
                torch.cuda.set_rng_state_all(cuda)


def answers(backends, arguments):
    found = {}
    for backend in backends:
        lines = io.StringIO()
        try:
            with recorded(lines):
                attend_with(backend, *arguments)
            found[backend] = None
        except Exception as error:
            found[backend] = f"{type(error).__name__}: {error}\n{lines.getvalue()}"
    return found


def usable_backends(*arguments, **options):
    q, k, v, mask, causal, dropout = order(*arguments, **options)
    return tuple(b for b, why in answers(reversed(ALL), (q, k, v, mask, causal, dropout)).items() if not why)


def why_not(backend, *arguments, **options):
    return answers([backend], order(*arguments, **options))[backend]


def order(query, key, value, attn_mask=None, is_causal=False, dropout_p=0.0):
    return query, key, value, attn_mask, is_causal, dropout_p


def attend_with(backend, query, key, value, attn_mask=None, is_causal=False, dropout_p=0.0):
    if backend not in ALL:
        raise ValueError(f"{backend!r} is not one of {ALL}")
    with sdpa_kernel([backend], set_priority=True):
        return torch.nn.functional.scaled_dot_product_attention(
            query=query, key=key, value=value, attn_mask=attn_mask, is_causal=is_causal, dropout_p=dropout_p
        )
