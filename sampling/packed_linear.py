"""Linear layers for a few rows at a time on the CPU."""

from itertools import count
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

_layers: "WeakValueDictionary[int, PackedLinear]" = WeakValueDictionary()
_numbers = count()


class PackedLinear(nn.Module):
    """A linear layer whose weight lies in the blocked layout that oneDNN's kernels read in one stream.

    With a few rows a product is as fast as its weight is read. `nn.Linear` keeps the weight in rows
    and rearranges it in every call; here that is done once (docs/benchmarks.md: 1.2 to 3 times as
    fast). For inference: the weight is no parameter any more.
    """

    def __init__(self, linear: nn.Linear, rows: int):
        """rows: of the inputs to come, for which the layout is chosen; any other number works, too."""
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.out_features = linear.out_features
        self.number = next(_numbers)
        _layers[self.number] = self

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in) -> (..., out)."""
        return torch.ops.alitok.packed_linear(x, self.number, self.out_features)


def _packed_linear(x: Tensor, number: int, features: int) -> Tensor:
    layer = _layers[number]
    return torch.ops.mkldnn._linear_pointwise(x, layer.packed, layer.bias, "none", [], "")


# An operator of its own, since the compiler can trace no tensors of oneDNN's layouts: it sees a number.
_library = torch.library.Library("alitok", "DEF")
_library.define("packed_linear(Tensor x, int number, int features) -> Tensor")
_library.impl("packed_linear", _packed_linear, "CPU")
_library.impl("packed_linear", lambda x, number, features: x.new_empty(*x.shape[:-1], features), "Meta")


def pack_linears(model: nn.Module, rows: int) -> None:
    """Replace every `nn.Linear` inside `model`, in place and for good."""
    for name, child in model.named_children():
        if isinstance(child, nn.Linear):
            setattr(model, name, PackedLinear(child, rows))
        else:
            pack_linears(child, rows)
