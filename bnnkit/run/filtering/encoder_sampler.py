"""A generator filtered through an encoder that samples again, without the real images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bnnkit.errors import DataError
from bnnkit.io.generators import Generator
from bnnkit.methods.mh.markov import EncoderProposal, Walked, pair_chains
from bnnkit.run.filtering.chain_sampler import ChainSampler
from bnnkit.run.filtering.encoder import PairModel
from bnnkit.run.filtering.stepwise import until_moved

__all__ = ["EncodedGenerator"]

_BLOCK = 2000


class EncodedGenerator(ChainSampler):
    """A generator whose images go through chains of encoder proposals.

    The run began its chains at real images, which are not delivered. These go on from the images
    that it delivered, all of them generated, by the same kernel: the report measures them in a
    row of their own. With real images given, they begin there, as the run did.

    Args:
        generator: The generator.
        model: What chains are run on.
        own: The autoencoder's own encoder, from images in [0, 1] to latents; None where the
            model holds one that was trained.
        states: The delivered images, uint8 `[m, c, h, w]`.
        chain_length: Proposals offered to each chain.
        serving: `{file: its inputs}` of the ONNX files beside it.
    """

    def __init__(
        self,
        generator: Generator,
        model: PairModel,
        own: Callable[[Tensor], Tensor] | None,
        states: Tensor,
        chain_length: int,
        serving: Mapping[str, tuple[str, ...]],
    ) -> None:
        super().__init__(generator, chain_length, serving)
        self.net, self.encoder = model.net, model.encoder
        self._model, self._own = model, own
        self.register_buffer("states", states)
        self.eval()

    states: Tensor

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        chain_length: int | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """Draw images from the corrected distribution.

        Args:
            n: How many.
            generator: Source of all draws, on the CPU; seeded with 0 if None.
            chain_length: Proposals offered to each chain; that of the run if None.
            starts: Real images, uint8 `[m, c, h, w]`, to start at in place of the delivered ones.
                None of them is ever returned.

        Returns:
            uint8 `[n, c, h, w]`.

        Raises:
            DataError: Starts of another type or shape.
            TrainingError: Chains refuse every proposal at the given starts.
            UsageError: A number has no meaning.
        """
        length, draws = self._settled(n, chain_length, generator)
        pool = self.states if starts is None else self._checked(starts)
        walks = [
            self._walk(pool, min(_BLOCK, n - done), length, draws, real=starts is not None)
            for done in range(0, n, _BLOCK)
        ]
        return torch.cat(walks)

    def _walk(
        self, pool: Tensor, count: int, length: int, draws: torch.Generator, *, real: bool
    ) -> Tensor:
        """Run chains from random images of a pool; a real one that was not left is left out."""
        made, model = self.generator, self._model
        encode = self.encoder or self._own
        assert encode is not None  # one of the two
        propose = EncoderProposal(encode, made.images, model.step, draws)

        def run(rows: Tensor) -> Walked:
            begin = pool[torch.randint(len(pool), (len(rows),), generator=draws)]
            return pair_chains(
                propose, model.net, model.floor, begin.float() / 255, length, draws,
                temperature=model.temperature,
            )  # fmt: skip

        images = until_moved(count, run).images if real else run(torch.arange(count)).images
        assert images is not None  # pairs have images
        return images

    def _checked(self, starts: Tensor) -> Tensor:
        """Refuse starts that are no images of this generator's."""
        shape = self.generator.shape
        if starts.dtype == torch.uint8 and tuple(starts.shape[1:]) == shape and len(starts):
            return starts
        raise DataError(
            "Sampling from given starts",
            f"{str(starts.dtype).removeprefix('torch.')} {list(starts.shape)}",
            f"they are real images, uint8 [m, {', '.join(map(str, shape))}]",
        )
