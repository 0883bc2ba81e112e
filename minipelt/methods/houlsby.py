"""Adapters where Houlsby et al. (2019) put them: two a layer, each before a residual sum; the LayerNorms train as well.

    o  <-  o + g * up(gelu(down(o)))        o: what leaves the attention block
    f  <-  f + g * up(gelu(down(f)))        f: what leaves the feed-forward block
"""

from torch import nn
from torch.nn import functional as F

from minipelt.methods import layernorm
from minipelt.methods.adapter import Adapter


class HoulsbyAdapter(Adapter):
    """Fills the slot `adapter` of a BertOutput, once in the attention block and once in the feed-forward block."""

    part = "houlsby"
    equation = "x = x + {g}up(gelu(down(x)))"

    def __init__(self, hidden_size, bottleneck, gate=None):
        super().__init__(hidden_size, bottleneck, gate)
        # Nearly, not exactly, plain BERT: the paper's sigma of 0.01, cut off at 2 sigma.
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=0.01, a=-0.02, b=0.02)

    def activation(self, x):
        """The paper's nonlinearity."""
        return F.gelu(x)


def attach(model, method, gate):
    """Let the LayerNorms train."""
    layernorm.attach(model, method, gate)


def attach_layer(layer, method, gate):
    """Put both adapters into a BertLayer."""
    for output in (layer.attention.output, layer.output):
        output.adapter = HoulsbyAdapter(output.dense.out_features, method.bottleneck, gate())
