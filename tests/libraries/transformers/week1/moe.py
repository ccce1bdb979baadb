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
    for parameter in block.parameters():  # what a whole model does with its blocks
        torch.nn.init.normal_(parameter, std=theirs.initializer_range)
    return block


def load_balancing_loss(gate_logits, num_experts, top_k=2, attention_mask=None):
    return load_balancing_loss_func(gate_logits, num_experts, top_k, attention_mask)


def parameter_counts(config):
    raise NotImplementedError("transformers counts the parameters of a model, not those that are active")
