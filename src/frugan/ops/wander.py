"""A smooth, closed random path from independent draws."""

import torch
from jaxtyping import Float
from torch import Tensor


def smooth_loop(draws: Float[Tensor, "T *rest"], sigma: float | int) -> Float[Tensor, "T *rest"]:
    """The draws blurred along the first axis by a Gaussian, wrapping round, and scaled to a root mean square of 1.

    From standard normal draws it makes a path of standard normal points that starts where it ends. `sigma` is in steps,
    above 0 and at most a quarter of the path: a longer blur leaves no path. Computed in float64.
    Source: the latents of ProGAN's videos (Karras et al. 2018). Raises ValueError.
    """
    steps = len(draws)
    if not 0 < sigma <= steps / 4:
        raise ValueError(f"the blur must be above 0 and at most a quarter of {steps} steps, got {sigma:g}")
    # Beyond ten sigma a Gaussian is 0 in float64: so many turns round the path are added up.
    turns = 1 + int(10 * sigma / steps)
    away = torch.arange(-turns * steps, (turns + 1) * steps, dtype=torch.float64, device=draws.device)
    kernel = torch.exp(-away.square() / (2 * sigma**2)).view(-1, steps).sum(dim=0)
    spectrum = torch.fft.rfft(kernel / kernel.sum())
    rows = draws.double().flatten(1) if draws.ndim > 1 else draws.double()[:, None]
    blurred = torch.fft.irfft(torch.fft.rfft(rows, dim=0) * spectrum[:, None], n=steps, dim=0)
    path: Tensor = blurred / blurred.square().mean().sqrt()
    return path.reshape(draws.shape).to(draws.dtype)
