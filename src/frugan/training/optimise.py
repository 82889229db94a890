"""Steps and averages of weights: Adam over named parameters, one flat gradient sum over ranks, the moving average."""

import copy
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from frugan.training.ranks import Ranks
from frugan.training.recipe import AdamConfig, EmaConfig


class Optimiser:
    """Adam over the trainable parameters of some networks, stepped with gradients summed over all ranks."""

    def __init__(self, config: AdamConfig, nets: Mapping[str, nn.Module], ranks: Ranks) -> None:
        self._config, self._ranks = config, ranks
        self._named = {
            f"{net}.{name}": parameter
            for net, module in nets.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        if not self._named:
            raise ValueError(f"nothing to train in {', '.join(nets)}: every parameter is frozen")
        self.reset_moments()

    def reset_moments(self) -> None:
        """Forget the running moments, as after a change of architecture."""
        betas = (self._config.beta1, self._config.beta2)
        self._adam = torch.optim.Adam(
            list(self._named.values()), lr=self._config.lr, betas=betas, eps=self._config.eps, fused=True
        )

    def adjust(self, lr_scale: float, beta_power: float) -> None:
        """Set the learning rate, as a factor on the recipe's, and the betas, as a power of the recipe's."""
        for group in self._adam.param_groups:
            group["lr"] = self._config.lr * lr_scale
            group["betas"] = (self._config.beta1**beta_power, self._config.beta2**beta_power)

    def parameters(self, nets: Iterable[str]) -> list[Tensor]:
        """The trainable parameters of these networks."""
        prefixes = tuple(f"{net}." for net in nets)
        return [parameter for name, parameter in self._named.items() if name.startswith(prefixes)]

    def step(self) -> Bool[Tensor, ""]:
        """Sum the gradients over ranks and step; false, and no change, where a gradient is not finite.

        The host does not wait for it: whether there is a step is decided on the device.
        """
        gradients = [parameter.grad for parameter in self._named.values() if parameter.grad is not None]
        if not gradients:
            return torch.ones((), dtype=torch.bool, device=self._ranks.device)
        if self._ranks.world > 1:
            flat = self._ranks.sum_(torch.cat([gradient.flatten() for gradient in gradients]))
            parts = flat.split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
        is_finite = torch.stack(torch._foreach_norm(gradients)).amax().isfinite()
        self._adam.found_inf = (~is_finite).float()  # type: ignore[attr-defined]
        self._adam.step()
        return is_finite

    def zero(self) -> None:
        """Drop all gradients."""
        self._adam.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Tensor]:
        """The moments by parameter name."""
        state = {}
        for name, parameter in self._named.items():
            for key, value in self._adam.state.get(parameter, {}).items():
                state[f"{name}|{key}"] = value
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave. Raises ValueError for moments of parameters that do not exist here."""
        self.reset_moments()
        for key, value in state.items():
            name, _, moment = key.rpartition("|")
            if name not in self._named:
                raise ValueError(f"the checkpoint has moments for {name!r}, which is not trained here")
            parameter = self._named[name]
            # torch's fused Adam walks through memory: a moment must lie there as its parameter does (channels-last).
            like = value if moment == "step" else parameter
            place = torch.empty_like(like, device=parameter.device)
            self._adam.state[parameter][moment] = place.copy_(value)


class Average:
    """The moving averages of some networks; buffers are copied as they are, or averaged where the settings say so."""

    def __init__(self, config: EmaConfig, nets: Mapping[str, nn.Module]) -> None:
        self._config = config
        self._sources = dict(nets)
        self.nets = {name: copy.deepcopy(net).eval().requires_grad_(False) for name, net in nets.items()}

    @torch.no_grad()
    def update(self, batch: int, images_seen: int) -> None:
        """Move the averages towards today's weights by one iteration."""
        decay = self._config.decay(batch, images_seen)
        for name, net in self._sources.items():
            average = self.nets[name]
            moved: list[tuple[Tensor, Tensor]] = [*zip(average.parameters(), net.parameters(), strict=True)]
            copied = [*zip(average.buffers(), net.buffers(), strict=True)]
            if self._config.buffers:
                moved += [pair for pair in copied if pair[0].is_floating_point()]
                copied = [pair for pair in copied if not pair[0].is_floating_point()]
            torch._foreach_lerp_([old for old, _ in moved], [new for _, new in moved], 1 - decay)
            if copied:
                torch._foreach_copy_([old for old, _ in copied], [new for _, new in copied])
