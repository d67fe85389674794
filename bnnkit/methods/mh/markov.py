r"""Proposals that depend on where a chain is: walks in latent space, and through an encoder.

A *latent walk* moves :math:`z' = \sqrt{1 - \beta^2}\, z + \beta \epsilon` (pCN), which
is reversible for N(0, I): the acceptance ratio is that of independent proposals,
:math:`w(G(z')) / w(G(z))`, and :math:`\beta = 1` *is* the independent proposal. An *encoder*
proposal needs no latent of the current image, real or generated:
:math:`x = G(\sqrt{1 - \beta^2}\, E(y) + \beta \epsilon)`. Its density is unknown, so the ratio is
the pairwise discriminator's, :math:`d(x, y) / d(y, x)`.

References:
    K. Neklyudov, E. Egorov, D. Vetrov, The implicit Metropolis-Hastings algorithm (2019), 3.1.
    S. Cotter, G. Roberts, A. Stuart, D. White, MCMC methods for functions (2013), pCN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnnkit.bayes.accept import independent
from bnnkit.bayes.accept.rule import metropolis_accept
from bnnkit.methods.mh.objectives import log_d

__all__ = [
    "Encoder",
    "EncoderProposal",
    "Walked",
    "fit_encoder",
    "latent_chains",
    "pair_chains",
    "perturb",
]

_BATCH = 128
Told = Callable[[], None]


@dataclass(frozen=True)
class Walked:
    """Where chains ended that were run step by step.

    Args:
        latents: Latents of the last states `[chains, ...]`.
        images: uint8 images of the last states `[chains, c, h, w]`; None where the latents make
            them.
        moved: bool `[chains]`: False for a chain that is still at its real start.
        acceptance: Mean acceptance probability over the second half.
    """

    latents: Tensor
    images: Tensor | None
    moved: Tensor
    acceptance: float


def perturb(z: Tensor, beta: float, generator: torch.Generator) -> Tensor:
    """Take a pCN step from latents `[n, ...]`; 1 forgets them, and 0 keeps them."""
    noise = torch.randn(z.shape, generator=generator).to(z)
    moved: Tensor = (1 - beta * beta) ** 0.5 * z + beta * noise
    return moved


class EncoderProposal:
    """q(x | y): the code of an image, perturbed and decoded.

    Args:
        encode: From images in [0, 1] to latents.
        decode: From latents to images in [0, 1].
        beta: Size of the perturbation.
        generator: Source of its noise, on the CPU.
    """

    def __init__(
        self,
        encode: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Tensor],
        beta: float,
        generator: torch.Generator,
    ) -> None:
        self._encode, self._decode = encode, decode
        self._beta, self._generator = beta, generator

    def __call__(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Draw latents and images for images `[n, c, h, w]`."""
        z = perturb(self._encode(y), self._beta, self._generator)
        return z, self._decode(z)


def latent_chains(
    draw: Callable[[int, torch.Generator], Tensor],
    score: Callable[[Tensor], Tensor],
    starts: Tensor,
    length: int,
    beta: float,
    generator: torch.Generator,
    *,
    on_step: Told | None = None,
) -> Walked:
    """Run chains whose proposals are made for each step.

    A chain at a real image has no latent: until it first moves it is offered fresh ones. Each
    kernel leaves the same distribution as it is; the choice between them looks at the past only
    once, so the law is the right one in the long run.

    Args:
        draw: Draws fresh latents `[n, ...]`.
        score: From latents to log p/q of their images `[n]`.
        starts: Log p/q of the real held-out images at which they start, one a chain `[chains]`.
        length: Proposals offered to each.
        beta: Size of a step; 1 makes all proposals independent ones.
        generator: Source of all draws, on the CPU.
        on_step: Told after each step.
    """
    chains = len(starts)
    state = independent.init(draw(chains, generator), starts)
    rates = []
    for _ in range(length):
        fresh = draw(chains, generator)
        if beta < 1:
            at_start = (state.moves == 0).view(-1, *[1] * (fresh.dim() - 1))
            fresh = torch.where(at_start, fresh, perturb(state.position, beta, generator))
        uniform = torch.rand(chains, generator=generator, dtype=torch.float64)
        state, info = independent.step(state, fresh, score(fresh), uniform)
        rates.append(float(info.probability.mean()))
        if on_step is not None:
            on_step()
    return Walked(state.position, None, state.moves > 0, _late(rates))


def pair_chains(
    propose: Callable[[Tensor], tuple[Tensor, Tensor]],
    net: nn.Module,
    floor: float,
    starts: Tensor,
    length: int,
    generator: torch.Generator,
    *,
    temperature: float = 1.0,
    accept_all: bool = False,
    on_step: Told | None = None,
) -> Walked:
    """Run chains of an encoder proposal under a pairwise discriminator.

    Args:
        propose: From images in [0, 1] to latents and images drawn from q(x | y).
        net: From pairs of images to logits of `first real, second its proposal`.
        floor: b of d in [b, 1]; 0 for the plain sigmoid.
        starts: Real held-out images in [0, 1], one a chain `[chains, c, h, w]`.
        length: Proposals offered to each.
        generator: Source of the uniform numbers, on the CPU.
        temperature: Divides the log acceptance ratio.
        accept_all: Follow the proposals without a filter, as the control.
        on_step: Told after each step.
    """
    y, moved, rates = starts, torch.zeros(len(starts), dtype=torch.bool), []
    latents: Tensor | None = None
    for _ in range(length):
        with torch.no_grad():
            z, x = propose(y)
            x = (x * 255).round() / 255  # an answer is bytes, and so is what is judged
            a = (log_d(net(x, y), floor) - log_d(net(y, x), floor)).cpu() / temperature
        taken = metropolis_accept(a, torch.rand(len(y), generator=generator, dtype=torch.float64))
        if accept_all:
            taken = torch.ones_like(taken)
        rates.append(float(a.nan_to_num(nan=-torch.inf).clamp(max=0).exp().mean()))
        y = torch.where(taken.view(-1, 1, 1, 1).to(y.device), x, y)
        shaped = taken.view(-1, *[1] * (z.dim() - 1)).to(z.device)
        latents = z if latents is None else torch.where(shaped, z, latents)
        moved |= taken
        if on_step is not None:
            on_step()
    assert latents is not None  # there is one step or more
    images = (y.cpu() * 255).round().to(torch.uint8)
    return Walked(latents.cpu(), images, moved, _late(rates))


def _late(rates: list[float]) -> float:
    """Return the mean over the second half, when a chain has forgotten its start."""
    late = rates[len(rates) // 2 :]
    return sum(late) / len(late)


class Encoder(nn.Module):
    """From images to latents of a generator that has no encoder of its own.

    Args:
        shape: Channels, height and width.
        latent: Shape of one latent.
        width: Channels after the first layer.
    """

    def __init__(
        self, shape: tuple[int, int, int], latent: tuple[int, ...], width: int = 32
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside, side = shape[0], min(shape[1:])
        for factor in (1, 2, 4):
            stride = 2 if side > 4 else 1
            layers += [nn.Conv2d(inside, width * factor, 3, stride, 1), nn.LeakyReLU(0.2)]
            inside, side = width * factor, -(-side // stride)
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.head = nn.Linear(16 * inside, int(torch.tensor(latent).prod()))
        self.latent = tuple(latent)

    def forward(self, images: Tensor) -> Tensor:
        """Return latents `[n, ...]` of images `[n, c, h, w]` in [0, 1]."""
        z: Tensor = self.head(self.body(2 * images - 1)).reshape(len(images), *self.latent)
        return z


def fit_encoder(
    net: Encoder,
    images: Tensor,
    latents: Tensor,
    generator: torch.Generator,
    *,
    epochs: int = 2,
    lr: float = 1e-3,
    on_step: Told | None = None,
) -> float:
    """Teach an encoder the latents of generated images, by least squares.

    Args:
        net: The encoder, left in eval mode.
        images: uint8 `[n, c, h, w]`.
        latents: What they were made from `[n, ...]`.
        generator: Source of the order, on the CPU.
        epochs: Passes over them.
        lr: Peak rate of Adam.
        on_step: Told after each step.

    Returns:
        Share of the latents' variance that it explains, over the last tenth of the steps.
    """
    device = next(net.parameters()).device
    steps = epochs * max(1, len(images) // _BATCH)
    optimiser = torch.optim.Adam(net.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps + 1)
    net.train()
    losses = []
    for _ in range(steps):
        rows = torch.randint(len(images), (min(_BATCH, len(images)),), generator=generator)
        x = images[rows].to(device).float() / 255
        loss = F.mse_loss(net(x), latents[rows].to(device))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if on_step is not None:
            on_step()
    net.eval()
    late = losses[-max(1, steps // 10) :]
    return 1 - sum(late) / len(late) / float(latents.double().var())
