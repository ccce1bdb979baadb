"""transformers' Mixtral and Jamba: their routers, their blocks, and the loss."""

import torch
from transformers import JambaConfig, MixtralConfig
from transformers.models.jamba.modeling_jamba import JambaSparseMoeBlock, JambaTopKRouter
from transformers.models.mixtral.modeling_mixtral import (
    MixtralSparseMoeBlock,
    MixtralTopKRouter,
    load_balancing_loss_func,
)


def route_top_k(router_logits, k, renormalize):
    experts = router_logits.size(-1)
    if not 1 <= k <= experts:
        raise NotImplementedError("transformers leaves a k that cannot be to torch.topk")
    if router_logits.dtype == torch.float64:
        raise NotImplementedError("transformers routes in float32")
    if renormalize:
        config = MixtralConfig(hidden_size=experts, num_local_experts=experts, num_experts_per_tok=k)
        router = MixtralTopKRouter(config)
    else:
        router = JambaTopKRouter(JambaConfig(hidden_size=experts, num_experts=experts, num_experts_per_tok=k))
    router.weight.data = torch.eye(experts, dtype=router_logits.dtype)  # so that the logits are the tokens
    _, weights, indices = router(router_logits.reshape(-1, experts))
    shape = (*router_logits.shape[:-1], k)
    return weights.to(router_logits.dtype).view(shape), indices.view(shape)


def SparseMoeBlock(config):
    if config.model_type not in ("mixtral", "jamba"):
        raise NotImplementedError("transformers has a class for each model type")
    fields = {name: value for name, value in vars(config).items() if name != "model_type"}
    if config.model_type == "mixtral":
        theirs = MixtralConfig(**fields, experts_implementation="eager")
        block = MixtralSparseMoeBlock(theirs)
    else:
        theirs = JambaConfig(**fields, experts_implementation="eager")
        block = JambaSparseMoeBlock(theirs)
    if theirs.num_experts_per_tok > theirs.num_local_experts:
        raise NotImplementedError("transformers leaves a k that cannot be to torch.topk")
    for parameter in block.parameters():  # what a whole model does with its blocks
        torch.nn.init.normal_(parameter, std=theirs.initializer_range)
    block.register_forward_pre_hook(_refuse_float64)
    return block


def _refuse_float64(_, inputs):
    if inputs[0].dtype == torch.float64:
        raise NotImplementedError("transformers routes in float32")


def load_balancing_loss(gate_logits, num_experts, top_k=2, attention_mask=None):
    if not 1 <= top_k <= num_experts:
        raise NotImplementedError("transformers leaves a k that cannot be to torch.topk")
    if gate_logits[0].dtype == torch.float64:
        raise NotImplementedError("transformers' loss is float32")
    return load_balancing_loss_func(gate_logits, num_experts, top_k, attention_mask)


def parameter_counts(config):
    raise NotImplementedError("transformers counts the parameters of a model, not those that are active")
