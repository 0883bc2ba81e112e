"""The parallel adapter (He et al. 2022): a bottleneck beside the feed-forward block, reading what the block reads.

    f  <-  f + s * up(relu(down(a)))        a: what enters the feed-forward block, f: what leaves it

Alone the scale s is a constant, 4; in a union s is the gate.
"""

from minipelt.methods.adapter import Adapter


class ParallelAdapter(Adapter):
    """Fills the slot `parallel` of a BertLayer, which adds the result to f."""

    part = "parallel"
    scale = 4.0

    @property
    def equation(self):
        """The formula, with the scale that holds."""
        return "f = f + {g}up(relu(down(a)))" if self.gate else "f = f + 4 * up(relu(down(a)))"

    def forward(self, x, mask):
        """x (B, T, D), mask (B, T) -> what to add to f, (B, T, D)."""
        delta = super().forward(x, mask)
        return delta if self.gate else self.scale * delta


def attach_layer(layer, method, gate):
    """Put a parallel adapter into a BertLayer."""
    hidden_size = layer.output.dense.out_features
    layer.parallel = ParallelAdapter(hidden_size, method.bottleneck, gate())
