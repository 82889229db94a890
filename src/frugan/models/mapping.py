"""StyleGAN's mapping network: from latents and labels to styles, or from labels alone to a vector for each class.

Source: Karras et al. 2019 (StyleGAN), section 2; labels as in StyleGAN2-ADA (Karras et al. 2020, appendix C).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frugan.models.generator import check_labels
from frugan.ops.equalized import EqualizedLinear
from frugan.ops.normalize import pixel_norm

Labels = Float[Tensor, "N num_classes"]


class MappingNetwork(nn.Module):
    """From latent codes, and labels where there are classes, to `w`; with z_dim 0 from labels alone."""

    w_avg: Tensor

    def __init__(
        self,
        *,
        z_dim: int,
        w_dim: int,
        num_classes: int,
        num_layers: int,
        lr_multiplier: float,
        num_ws: int | None,
    ) -> None:
        super().__init__()
        self.num_ws = num_ws
        self.num_classes = num_classes
        self.num_layers = num_layers
        self.z_dim = z_dim
        if num_classes:
            self.embed = EqualizedLinear(num_classes, w_dim)
        inputs = z_dim + (w_dim if num_classes else 0)
        for index in range(num_layers):
            layer = EqualizedLinear(inputs, w_dim, lr_multiplier=lr_multiplier, activation="lrelu")
            self.add_module(f"fc{index}", layer)
            inputs = w_dim
        if num_ws is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def features(self, z: Float[Tensor, "N z_dim"] | None, labels: Labels | None) -> Float[Tensor, "N w_dim"]:
        """One code per sample, before it is repeated for every layer."""
        check_labels(labels, self.num_classes)
        parts = [] if z is None else [pixel_norm(z)]
        if labels is not None and self.num_classes:
            parts.append(pixel_norm(self.embed(labels)))
        x = torch.cat(parts, dim=1)
        for index in range(self.num_layers):
            x = self.get_submodule(f"fc{index}")(x)
        return x

    def forward(self, z: Float[Tensor, "N z_dim"], labels: Labels | None = None) -> Float[Tensor, "N num_ws w_dim"]:
        """w, the same for every layer. `labels` are float one-hot rows, given exactly where there are classes."""
        return self.features(z, labels)[:, None].repeat(1, self.num_ws or 1, 1)
