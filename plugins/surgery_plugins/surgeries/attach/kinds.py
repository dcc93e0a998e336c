"""The attachments of this distribution, as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from surgery.operate.attachment import Attachment

if TYPE_CHECKING:
    from torch import nn

Count: TypeAlias = Annotated[int, Field(ge=1)]
LayoutName: TypeAlias = Literal["tokens", "channels_first", "channels_last"]

_LAYOUT = (
    "How the features lie: [batch, tokens, channels], [batch, channels, height, width] or "
    "[batch, height, width, channels]."
)
_PREFIX = "Tokens at the beginning that belong to no place, such as a class token."


class LinearHead(Attachment):
    """Map the last axis by one linear layer."""

    name: ClassVar[str] = "linear"

    out: Count = Field(description="Size of the last axis of what comes out.")
    bias: bool = Field(default=True, description="Whether the layer has a bias.")

    def build(self, features: int) -> nn.Module:
        """Build the layer."""
        from torch import nn

        return nn.Linear(features, self.out, bias=self.bias)


class MlpHead(Attachment):
    """Map the last axis by linear layers with GELU between them."""

    name: ClassVar[str] = "mlp"

    hidden: list[Count] = Field(min_length=1, description="Widths between the layers.")
    out: Count = Field(description="Size of the last axis of what comes out.")

    def build(self, features: int) -> nn.Module:
        """Build the layers."""
        from surgery_plugins.modules.attached import perceptron

        return perceptron([features, *self.hidden, self.out])


class _Placed(Attachment):
    layout: LayoutName = Field(description=_LAYOUT)
    prefix: int = Field(default=0, ge=0, description=_PREFIX)

    @model_validator(mode="after")
    def _tokens_alone_have_a_prefix(self) -> _Placed:
        if self.prefix and self.layout != "tokens":
            raise ValueError("expected prefix with layout: tokens alone")
        return self

    @property
    def axis(self) -> int:
        """The axis of the channels."""
        return 1 if self.layout == "channels_first" else -1


class PooledView(_Placed):
    """Encode all places to one vector: mean, layer norm, linear layers with GELU between them."""

    name: ClassVar[str] = "pooled_view"

    hidden: list[Count] = Field(default_factory=list, description="Widths between the layers.")
    out: Count = Field(description="Length of the vector.")

    def build(self, features: int) -> nn.Module:
        """Build the encoder."""
        from surgery_plugins.modules.attached import PooledEncoder

        return PooledEncoder([features, *self.hidden, self.out], self.layout, self.prefix)


class ConvMap(_Placed):
    """Encode a map by convolutions with group norm and GELU, such as a head for segmentation."""

    name: ClassVar[str] = "conv"

    channels: list[Count] = Field(min_length=1, description="Channels of the convolutions.")
    out: Count = Field(description="Channels that come out.")
    kernel: Count = Field(default=3, description="Size of the kernels, an odd number.")
    stride: Count = Field(default=1, description="Stride of each convolution.")
    upscale: Count = Field(
        default=1, description="Factor by which height and width grow at the end."
    )

    @model_validator(mode="after")
    def _kernel_has_a_middle(self) -> ConvMap:
        if self.kernel % 2 == 0:
            raise ValueError(f"expected an odd kernel, got {self.kernel}")
        return self

    def build(self, features: int) -> nn.Module:
        """Build the encoder."""
        from surgery_plugins.modules.attached import ConvEncoder

        return ConvEncoder(
            [features, *self.channels], self.out, self.kernel, self.stride, self.upscale,
            self.layout, self.prefix,
        )  # fmt: skip


BUILT_IN: tuple[type[Attachment], ...] = (LinearHead, MlpHead, ConvMap, PooledView)
"""What this distribution offers."""
