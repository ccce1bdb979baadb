"""PyTorch's own silu and optimizer. Its engine cannot stand in for a Tensor of one's own."""

from torch.nn import functional as F


class Tensor:
    def __init__(self, data, requires_grad=False):
        raise NotImplementedError("torch.autograd is what the tape is compared with")


class SwiGLU:
    @staticmethod
    def apply(gate, up):
        return F.silu(gate) * up


def sgd_train(parameters, loss_fn, steps, lr):
    raise NotImplementedError("torch.optim.SGD updates tensors of torch.autograd")
