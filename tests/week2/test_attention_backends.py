"""Graded tests of week2/attention_backends: what PyTorch's attention kernels accept, according to PyTorch itself."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.nn.attention import SDPBackend
from torch.utils._python_dispatch import TorchDispatchMode

from grading import expect
from tests.oracles import backends as oracle
from tests.oracles.attention import attention
from tests.oracles.gradients import gradients_of

# --- calls --------------------------------------------------------------------------------------------------------

B, H, L, S, D = 2, 3, 5, 7, 8


def case(draw, name):
    """The arguments of one call of scaled_dot_product_attention, right or wrong."""
    q, k, v = draw.normal(B, H, L, D), draw.normal(B, H, S, D), draw.normal(B, H, S, D)
    mask = draw.mask(L, S)
    match name:
        case "float32":
            return (q, k, v), {}
        case "float16" | "bfloat16" | "float64" | "int32" | "complex64":
            dtype = getattr(torch, name)
            return (q.to(dtype), k.to(dtype), v.to(dtype)), {}
        case "unlike dtypes":
            return (q, k.double(), v), {}
        case "causal":
            return (q, k, v), {"is_causal": True}
        case "dropout":
            return (q, k, v), {"dropout_p": 0.3}
        case "impossible dropout":
            return (q, k, v), {"dropout_p": 1.5}
        case "mask":
            return (q, k, v), {"attn_mask": mask}
        case "float mask":
            return (q, k, v), {"attn_mask": draw.normal(B, 1, L, S)}
        case "mask of 3 dimensions":
            return (q, k, v), {"attn_mask": mask.expand(H, L, S)}
        case "mask of another size":
            return (q, k, v), {"attn_mask": mask[:, 1:]}
        case "integer mask":
            return (q, k, v), {"attn_mask": mask.long()}
        case "mask and causal":
            return (q, k, v), {"attn_mask": mask, "is_causal": True}
        case "no batch":
            return (q[0], k[0], v[0]), {}
        case "one head of the key for all":
            return (q, k[:, :1], v[:, :1]), {}
        case "one key sequence for all":
            return (q, k[:1], v[:1]), {}
        case "wider value":
            return (q, k, draw.normal(B, H, S, 2 * D)), {}
        case "narrower key":
            return (q, k[..., 1:], v), {}
        case "heads of 1024":
            return (draw.normal(1, 1, L, 1024), draw.normal(1, 1, S, 1024), draw.normal(1, 1, S, 1024)), {}
        case "heads between":
            return tuple(x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)), {}
        case "channels apart":
            return (q.transpose(-1, -2).contiguous().transpose(-1, -2), k, v), {}
        case "expanded":
            return (q, k[:, :1].expand(B, H, S, D), v[:1].expand(B, H, S, D)), {}
        case "no query":
            return (q[:, :, :0], k, v), {}
        case "nothing":
            return (q[:0], k[:0], v[:0]), {}
    raise ValueError(name)


# --- usable_backends ----------------------------------------------------------------------------------------------


def names_of_usable(module, query, key, value, options):
    return [getattr(backend, "name", repr(backend)) for backend in module.usable_backends(query, key, value, **options)]


def check_usable(got, expected):
    """The answer names exactly these backends, each once."""
    names, missing = got.output, sorted(set(expected) - set(got.output))
    expect.that(
        sorted(names) == expected,
        f"usable, but missing: {', '.join(missing)}" if missing else "some of these backends refuse the call",
        expected=", ".join(expected) or "no backend",
        got=", ".join(names) or "no backend",
    )


@pytest.mark.points(1)
@pytest.mark.handout("asking")
@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "float64"])
def test_an_ordinary_call(submission, draw, name):
    """The backends that accept an ordinary call, in each dtype."""
    tensors, options = case(draw, name)
    check_usable(submission.run(names_of_usable, *tensors, options), oracle.usable(*tensors, **options))


@pytest.mark.points(1)
@pytest.mark.handout("asking")
@pytest.mark.parametrize("name", ["causal", "dropout", "mask", "float mask", "mask of 3 dimensions", "mask and causal"])
def test_options_count(submission, draw, name):
    """Mask, causality and dropout affect which backends accept the call."""
    tensors, options = case(draw, name)
    check_usable(submission.run(names_of_usable, *tensors, options), oracle.usable(*tensors, **options))


@pytest.mark.points(1)
@pytest.mark.handout("shapes")
@pytest.mark.parametrize(
    "name",
    ["no batch", "one head of the key for all", "one key sequence for all", "wider value", "heads of 1024"],
)
def test_shapes_count(submission, draw, name):
    """So do the shapes: what broadcasts in the formula need not broadcast in a kernel."""
    tensors, options = case(draw, name)
    check_usable(submission.run(names_of_usable, *tensors, options), oracle.usable(*tensors, **options))


@pytest.mark.points(1)
@pytest.mark.handout("shapes")
@pytest.mark.parametrize("name", ["heads between", "channels apart", "expanded"])
def test_strides_count(submission, draw, name):
    """So does the memory layout."""
    tensors, options = case(draw, name)
    check_usable(submission.run(names_of_usable, *tensors, options), oracle.usable(*tensors, **options))


@pytest.mark.points(1)
@pytest.mark.handout("asking")
@pytest.mark.parametrize("name", ["no query", "nothing"])
def test_with_nothing_to_do_every_kernel_is_fast(submission, draw, name):
    """If there is nothing to compute, more backends accept the call."""
    tensors, options = case(draw, name)
    check_usable(submission.run(names_of_usable, *tensors, options), oracle.usable(*tensors, **options))


@pytest.mark.points(1)
@pytest.mark.handout("asking")
@pytest.mark.parametrize(
    "name",
    [
        "int32",
        "complex64",
        "unlike dtypes",
        "narrower key",
        "mask of another size",
        "integer mask",
        "impossible dropout",
    ],
)
def test_a_wrong_call_has_no_backend(submission, draw, name):
    """All backends refuse a wrong call: the answer is [], not an exception."""
    tensors, options = case(draw, name)
    check_usable(submission.run(names_of_usable, *tensors, options), oracle.usable(*tensors, **options))


def usable_with_gradients(module, query, key, value, mask):
    """Usable for a mask, for a mask that requires a gradient, and for a query that does."""
    answers = [module.usable_backends(query, key, value, mask)]
    answers.append(module.usable_backends(query, key, value, mask.clone().requires_grad_()))
    answers.append(module.usable_backends(query.clone().requires_grad_(), key, value, mask))
    return [sorted(backend.name for backend in answer) for answer in answers]


@pytest.mark.points(2)
@pytest.mark.handout("gradients")
def test_gradients_count(submission, draw):
    """A kernel may lack the mask's gradient, so it matters whether the mask requires one."""
    (q, k, v), options = case(draw, "float mask")
    mask = options["attn_mask"]
    got = submission.run(usable_with_gradients, q, k, v, mask)
    expected = [
        oracle.usable(q, k, v, attn_mask=mask),
        oracle.usable(q, k, v, attn_mask=mask.clone().requires_grad_()),
        oracle.usable(q.clone().requires_grad_(), k, v, attn_mask=mask),
    ]
    for what, names, right in zip(("nothing", "the mask", "the query"), got.output, expected, strict=True):
        expect.that(
            names == right,
            f"wrong backends if {what} requires a gradient",
            expected=", ".join(right) or "no backend",
            got=", ".join(names) or "no backend",
        )


def usable_on_meta(module):
    query = torch.empty(2, 3, 5, 8, device="meta")
    mixed = torch.empty(2, 3, 5, 8)
    return [
        sorted(backend.name for backend in module.usable_backends(*tensors))
        for tensors in ((query, query, query), (query, mixed, mixed))
    ]


@pytest.mark.points(1)
@pytest.mark.handout("devices")
def test_devices_count(submission):
    """The answer depends on the device, and no backend accepts tensors on two devices."""
    meta, cpu = torch.empty(2, 3, 5, 8, device="meta"), torch.empty(2, 3, 5, 8)
    expect(submission.run(usable_on_meta)).equal_to([oracle.usable(meta, meta, meta), oracle.usable(meta, cpu, cpu)])


# --- why_not ------------------------------------------------------------------------------------------------------


def reasons(module, query, key, value, options):
    """Each backend's reason, when asked a second time."""
    for _ in range(2):
        answers = {
            name: module.why_not(backend, query, key, value, **options)
            for name, backend in SDPBackend.__members__.items()
            if name != "ERROR"
        }
    return answers


@pytest.mark.points(1)
@pytest.mark.handout("reasons")
@pytest.mark.parametrize(
    "name",
    [
        "float32",
        "dropout",
        "mask of 3 dimensions",
        "mask and causal",
        "no batch",
        "wider value",
        "one head of the key for all",
        "channels apart",
        "int32",
        "unlike dtypes",
    ],
)
def test_reasons_are_pytorchs_own(submission, draw, name):
    """why_not returns PyTorch's own reason for a refusal, and None if the backend performs the call."""
    tensors, options = case(draw, name)
    answers = submission.run(reasons, *tensors, options).output
    for backend, right in oracle.refusals(*tensors, **options).items():
        answer = answers[backend]
        if not right:
            expect.that(answer is None, f"{backend} performs the call: the answer must be None, not {answer!r}")
            continue
        expect.that(isinstance(answer, str), f"{backend} refuses: the answer must be text, not {answer!r}")
        words = " ".join(answer.split())
        expect.that(
            any(" ".join(sentence.split()) in words for sentence in right),
            f"{backend} refuses, but the answer does not contain PyTorch's own reason",
            expected=right[-1],
            got=words[:300],
        )


# --- attend_with --------------------------------------------------------------------------------------------------


def attend(module, name, query, key, value, options):
    return module.attend_with(SDPBackend.__members__[name], query, key, value, **options)


@pytest.mark.points(1)
@pytest.mark.handout("one-backend")
@pytest.mark.parametrize("name", ["float32", "bfloat16", "causal", "mask", "float mask", "heads between"])
def test_the_result_is_attention(submission, draw, name):
    """With any backend the result is attention, options included."""
    tensors, options = case(draw, name)
    for backend in oracle.usable(*tensors, **options):
        got = submission.run(attend, backend, *tensors, options)
        expect(got).close_to(attention, *tensors, **options)


class Operators(TorchDispatchMode):
    """Notes the names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def kernels(module, name, query, key, value):
    """The fused attention operators that run."""
    with Operators() as operators:
        module.attend_with(SDPBackend.__members__[name], query, key, value)
    return [name for name in operators.names if "scaled_dot_product" in name]


@pytest.mark.points(3)
@pytest.mark.handout("one-backend")
def test_this_backend_does_it_and_no_other(submission, draw):
    """The operators that run are those of the requested backend."""
    tensors, _ = case(draw, "float32")
    for backend in oracle.usable(*tensors):
        right, ran = oracle.kernels(backend, *tensors), submission.run(kernels, backend, *tensors).output
        expect.that(ran == right, f"{backend}: {right or 'no fused operator'} should run, not {ran or 'none'}")


def attempts(module, names, query, key, value, options):
    """What each backend does: the exception's name, or that it returned an answer."""
    found = {}
    for name in names:
        try:
            with warnings.catch_warnings(action="ignore"):  # PyTorch's reasons
                module.attend_with(SDPBackend.__members__[name], query, key, value, **options)
            found[name] = "an answer"
        except RuntimeError:
            found[name] = "RuntimeError"
    return found


@pytest.mark.points(2)
@pytest.mark.handout("one-backend")
@pytest.mark.parametrize("name", ["float32", "mask of 3 dimensions", "narrower key"])
def test_what_is_refused_is_not_done_by_another(submission, draw, name):
    """If the backend refuses, attend_with raises RuntimeError; no other backend answers."""
    tensors, options = case(draw, name)
    refusing = [backend for backend in oracle.NAMES if backend not in oracle.usable(*tensors, **options)]
    got = submission.run(attempts, refusing, *tensors, options)
    expect(got).equal_to(dict.fromkeys(refusing, "RuntimeError"))


def attend_by_name(module, name, query):
    return module.attend_with(getattr(SDPBackend, name, name), query, query, query)


@pytest.mark.points(1)
@pytest.mark.handout("one-backend")
def test_a_backend_that_is_none_is_refused(submission, draw):
    """A backend that is not an SDPBackend raises ValueError, which shows it."""
    got, ordinary = (submission.run(attend_by_name, name, draw.normal(1, 1, 2, 8)) for name in ("flash", "MATH"))
    expect(got).raises(ValueError, mentioning=["flash"], unlike=ordinary)


def gradients(module, name, above, query, key, value, options):
    leaves = {"query": query.requires_grad_(), "key": key.requires_grad_(), "value": value.requires_grad_()}
    output = module.attend_with(SDPBackend.__members__[name], query, key, value, **options)
    found = torch.autograd.grad(output, list(leaves.values()), above)
    return {f"gradient of {each}": gradient for each, gradient in zip(leaves, found, strict=True)}


def stateless(state, query, key, value, **options):
    return attention(query, key, value, **options)


@pytest.mark.points(1)
@pytest.mark.handout("gradients")
@pytest.mark.parametrize("name", ["float32", "causal", "mask"])
def test_gradients_flow(submission, draw, name):
    """The result is differentiable in query, key and value."""
    tensors, options = case(draw, name)
    above = draw.normal(B, H, L, D)
    for backend in oracle.usable(*tensors, **options):
        got = submission.run(gradients, backend, above, *tensors, options)
        expect(got).close_to(gradients_of(stateless), above, {}, *tensors, **options)


@pytest.mark.points(1)
@pytest.mark.handout("one-backend")
def test_dropout_drops(submission, draw):
    """With dropout_p, that share of the weights is dropped and the rest are scaled up."""
    q, k, v = draw.normal(20, 20, 1, 8), draw.normal(20, 20, 1, 8), draw.uniform(20, 20, 1, 8, low=1.0, high=2.0)
    options = {"dropout_p": 0.25}
    for backend in oracle.usable(q, k, v, **options):
        output = submission.run(attend, backend, q, k, v, options).output
        expect.that(output.shape == v.shape, f"the output has shape {tuple(output.shape)}, not {tuple(v.shape)}")
        kept = output[..., 0] != 0  # there is one key: its weight of 1 is kept or dropped
        expect.that(0.65 < kept.double().mean() < 0.85, f"{kept.double().mean():.0%} of the weights are kept, not 75%")
        expect.that(
            torch.allclose(output[kept], v[kept] / 0.75, rtol=1e-3),
            "the weights that are kept must be divided by 1 − dropout_p",
        )


# --- nothing is left changed --------------------------------------------------------------------------------------


SWITCHES = {
    "flash": (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    "efficient": (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
    "math": (torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp),
    "cudnn": (torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp),
}


def state():
    """Everything that a question could change and leave changed."""
    found = {name: read() for name, (read, _) in SWITCHES.items()}
    return found | {"gradients": torch.is_grad_enabled(), "warning filters": len(warnings.filters)}


def changes(before):
    """What differs now from an earlier state."""
    after = state()
    found = [f"{name}: now {after[name]}" for name in SWITCHES if after[name] != before[name]]
    return found + [name for name in ("gradients", "warning filters") if after[name] != before[name]]


def answers_and_changes(module, *arguments):
    """What the three functions answer about a call, and what each of them leaves changed."""
    before, found, done = state(), {}, []
    found["usable"] = sorted(backend.name for backend in module.usable_backends(*arguments))
    found["changed by usable_backends"] = changes(before)
    for backend in ("MATH", "FLASH_ATTENTION", "EFFICIENT_ATTENTION"):
        module.why_not(SDPBackend.__members__[backend], *arguments)
    found["changed by why_not"] = changes(before)
    for backend in ("MATH", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION"):
        try:
            module.attend_with(SDPBackend.__members__[backend], *arguments)
            done.append(backend)
        except RuntimeError:
            pass
        found[f"changed by attend_with({backend})"] = changes(before)
    return {**found, "done": sorted(done)}


def with_switches(module, query, key, value, mask, off):
    """The answers and changes if some switches are off to begin with."""
    was = {name: read() for name, (read, _) in SWITCHES.items()}
    try:
        with warnings.catch_warnings(action="ignore"):
            for name in off:
                SWITCHES[name][1](False)
            return answers_and_changes(module, query, key, value, mask)
    finally:
        for name, (_, write) in SWITCHES.items():
            write(was[name])


@pytest.mark.points(2)
@pytest.mark.handout("switches")
@pytest.mark.parametrize("off", [(), ("flash",), ("math", "efficient", "cudnn")], ids=["all", "noflash", "flash"])
def test_no_switch_is_left_changed(submission, draw, off):
    """Whatever the caller has switched off, the answers stay the same and the switches are restored."""
    (q, k, v), options = case(draw, "mask")
    mask = options["attn_mask"]
    for query in (q, q.transpose(-1, -2).contiguous().transpose(-1, -2)):
        seen = submission.run(with_switches, query, k, v, mask, list(off)).output
        right = oracle.usable(query, k, v, attn_mask=mask)
        words = f"with {', '.join(off) or 'nothing'} switched off by the caller,"
        expect.that(seen["usable"] == right, f"{words} {right} are usable, not {seen['usable']}")
        expect.that(seen["done"] == right, f"{words} attend_with accepts {right}, not {seen['done']}")
        for what in (key for key in seen if key.startswith("changed")):
            expect.that(not seen[what], f"{what} and not restored: {', '.join(seen[what])[:150]}")


def side_effects(module, query, key, value):
    """The warnings heard, and the next random number without and after asking about a call with dropout."""
    state = torch.get_rng_state()
    following = [torch.rand(()).item()]
    torch.set_rng_state(state)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        module.usable_backends(query, key, value, dropout_p=0.5)
        for name in ("MATH", "FLASH_ATTENTION"):
            module.why_not(SDPBackend.__members__[name], query, key, value, dropout_p=0.5)
    following.append(torch.rand(()).item())
    return {"warnings": [str(warning.message)[:80] for warning in heard], "next random number": following}


@pytest.mark.points(2)
@pytest.mark.handout("switches")
def test_asking_is_quiet_and_draws_no_random_number(submission, draw):
    """Asking emits no warning and leaves the random state unchanged, even if the call would draw from it."""
    tensors, _ = case(draw, "float32")
    seen = submission.run(side_effects, *tensors).output
    expect.that(not seen["warnings"], f"a warning reaches the caller: {seen['warnings']}")
    without, after = seen["next random number"]
    expect.that(without == after, "asking changes the random state", expected=str(without), got=str(after))
