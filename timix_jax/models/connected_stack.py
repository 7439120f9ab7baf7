"""mPLUG's fusion layers: captions read the image, and every few layers image and caption attend to each other."""

import itertools
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from timix_jax.models.axes import Axes, declare
from timix_jax.models.cross_block import CrossStack, Memory
from timix_jax.models.dropout import Dropout
from timix_jax.models.stacked import stacked_layers
from timix_jax.models.transformer import Block, Remat, kernel_init, rematerialise, rounded
from timix_jax.parallel.layout import Layout

Array = jax.Array
Kind = Literal["cross", "connected"]


def layer_kinds(depth: int, stride: int) -> list[Kind]:
    """Return the kind of each layer: connected where its number, from 0, is a multiple of `stride` but not 0."""
    return ["connected" if i and i % stride == 0 else "cross" for i in range(depth)]


class MixedMemory(NamedTuple):
    """What captions read of B images.

    Attributes:
      states: (B, S, C) image states, which the first connected layer changes.
      leading: keys and values of the cross layers before it, which all captions share.
    """

    states: Array
    leading: Memory


class BlockList(nn.Module):
    """Post-norm blocks with stacked parameters that run one at a time."""

    depth: int
    width: int
    heads: int
    mlp_dim: int
    eps: float = 1e-12
    act: str = "gelu"
    dtype: Any = jnp.float32
    remat: Remat = "none"
    layout: Layout | None = None
    root: str = ""

    def setup(self) -> None:
        """Declare the stacked layers."""
        self.layers = stacked_layers(self, self._init_one, self.depth)

    @property
    def _block(self) -> Block:
        return Block(self.heads, self.mlp_dim, False, self.eps, self.act, self.dtype, parent=None)

    def _init_one(self, key: Array) -> Any:
        return self._block.init(key, jnp.zeros((1, 1, self.width), self.dtype))["params"]

    def __call__(self, index: int, x: Array, mask: Array, dropout: Dropout | None = None) -> Array:
        """Map tokens (R, T, C) through one layer; mask (R, T) bool is False for padding."""

        def run(params: Any, x: Array) -> Array:
            params = rounded(params, self.dtype)
            if self.layout is not None:
                scope = f"{self.root}/layers"
                params = self.layout.gather(params, scope, dtype=self.dtype, layers=self.depth)
            apply: Any = self._block.apply
            y: Array = apply({"params": params}, x, mask, dropout)
            return y if self.layout is None else self.layout.constrain_batch(y)

        layer = jax.tree.map(lambda p: p[index], self.layers)
        y: Array = rematerialise(run, self.remat)(layer, x)
        return y


class ConnectedStack(nn.Module):
    """Cross and connected layers in turn (mPLUG, arXiv 2205.12005).

    A cross layer is that of `CrossBlock`. A connected layer is a block over image states and caption as one sequence,
    after which the caption is replaced and the image states become old + new, the cross-modal skip connection; later
    layers read these. Parameters are stacked per kind.

    Attributes:
      depth: number of layers.
      stride: see `layer_kinds`.
      states_width: width of the image tokens; if it differs from `width`, a linear layer and a norm adapt them.
      root: path of this module in the whole model, for `layout`.
    """

    depth: int
    stride: int
    width: int
    heads: int
    mlp_dim: int
    states_width: int
    eps: float = 1e-12
    act: str = "gelu"
    dtype: Any = jnp.float32
    scan: bool = True
    remat: Remat = "none"
    layout: Layout | None = None
    root: str = "fusion"

    def setup(self) -> None:
        """Declare the layers of each kind, and the adapter where it is needed."""
        self.kinds = layer_kinds(self.depth, self.stride)
        shape = (self.width, self.heads, self.mlp_dim)
        options = {"eps": self.eps, "act": self.act, "dtype": self.dtype, "remat": self.remat}
        options |= {"layout": self.layout}
        self.cross = CrossStack(
            self.kinds.count("cross"),
            *(*shape, self.width),
            **options,
            scan=self.scan,
            root=f"{self.root}/cross",
        )
        if "connected" in self.kinds:
            self.connected = BlockList(
                self.kinds.count("connected"), *shape, **options, root=f"{self.root}/connected"
            )
        if self.states_width != self.width:
            adapter_init = declare(kernel_init, Axes(muon=((-2,), (-1,))))
            self.adapter = nn.Dense(self.width, kernel_init=adapter_init, dtype=self.dtype)
            self.adapter_norm = nn.LayerNorm(epsilon=self.eps, dtype=self.dtype)

    def memory(self, tokens: Array) -> MixedMemory:
        """Return what all captions of the images share, given the image tokens (B, S, Cs)."""
        states = tokens.astype(self.dtype)
        if self.states_width != self.width:
            states = self.adapter_norm(self.adapter(states))
        leading = next(len(list(run)) for _, run in itertools.groupby(self.kinds))
        return MixedMemory(states, self.cross.memory(states, 0, leading))

    def __call__(
        self, x: Array, mask: Array, memory: MixedMemory, dropout: Dropout | None = None
    ) -> tuple[Array, Array]:
        """Let captions and images read each other.

        Args:
          x: (R, T, C) states of R = B·G captions, of which G consecutive ones read the same image.
          mask: (R, T) bool, False for padding.
          memory: from `memory` for B images.
          dropout: of R rows; None for none.

        Returns:
          The states of the captions (R, T, C), and those of the image that each of them reads (R, S, C).
        """
        image = jnp.repeat(memory.states, len(x) // len(memory.states), axis=0)
        seen = jnp.concatenate([jnp.ones(image.shape[:2], bool), mask], axis=1)
        # Connected layers follow the cross layers in the numbering of dropout's streams.
        numbered = dropout and dropout.by_layer(self.depth)
        cross = connected = 0
        for kind, run in itertools.groupby(self.kinds):
            count = len(list(run))
            if kind == "cross":
                stop = cross + count
                own = memory.leading if cross == 0 else self.cross.memory(image, cross, stop)
                x = self.cross(x, mask, own, None, dropout, cross, stop)
                cross = stop
                continue
            for _ in range(count):
                number = self.kinds.count("cross") + connected
                of_layer = jax.tree.map(lambda keys, n=number: keys[n], numbered)
                joined = jnp.concatenate([image, x.astype(image.dtype)], axis=1)
                joined = self.connected(connected, joined, seen, of_layer)
                size = image.shape[1]
                image, x = image + joined[:, :size], joined[:, size:]
                connected += 1
        return x, image

    def initialise(self) -> Array:
        """Use every parameter once, for `init`."""
        x = jnp.zeros((1, 1, self.width), self.dtype)
        memory = self.memory(jnp.zeros((1, 1, self.states_width), self.dtype))
        return self(x, jnp.ones((1, 1), bool), memory)[0]
