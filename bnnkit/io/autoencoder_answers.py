"""What one half of an autoencoder answers: its tensors, and what their names say of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass

from torch import Tensor

from bnnkit.errors import StructureError
from bnnkit.spec.vae import SPREADS

__all__ = ["SAME", "Answer", "is_constant", "is_possible", "read_answer", "role_of", "same_values"]

SAME = 1e-6
"""How far equal numbers may be apart by rounding, as a share."""

_ROLES = {
    "mean": ("mu", "mus", "mean", "means", "loc"),
    "logvar": (
        *("logvar", "logvars", "lnvar", "logvariance", "lnvariance", "logcov", "logcovariance"),
        *("logsigma2", "lnsigma2", "logsigmasq", "logsigmasquared", "logstd2"),
    ),
    "logsigma": (
        *("logsigma", "lnsigma", "logstd", "lnstd", "logstddev", "logscale", "logsd"),
    ),
    "sigma": ("sigma", "sigmas", "std", "stds", "stddev", "stdev", "sd", "scale"),
    "sigma2": (
        *("var", "vars", "variance", "cov", "covariance", "sigma2", "sigmasq", "sigmasquared"),
    ),
}  # fmt: skip
_ROLE = {word: role for role, words in _ROLES.items() for word in words}
_FRAME = frozenset({
    *("z", "q", "qz", "zq", "latent", "latents", "enc", "encoder", "encoded", "post", "posterior"),
    *("x", "p", "px", "dec", "decoder", "decoded", "recon", "reconstruction", "out", "output"),
})  # fmt: skip
"""Words that say whose a mean or spread is."""
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


@dataclass(frozen=True, eq=False)
class Answer:
    """The tensors of an answer.

    Args:
        tensors: In the order of the answer.
        names: Keys of a dictionary or fields of a named tuple, one each; "" where there is none.
    """

    tensors: tuple[Tensor, ...]
    names: tuple[str, ...]

    @property
    def roles(self) -> tuple[str | None, ...]:
        """Return what each name says; see `role_of`."""
        return tuple(role_of(name) for name in self.names)

    def mean_first(self) -> Answer:
        """Return it with the mean first and the spread second, where names tell these."""
        roles = self.roles
        first = [i for i, role in enumerate(roles) if role == "mean"][:1]
        second = [i for i, role in enumerate(roles) if role in SPREADS][:1] if first else []
        order = [*first, *second]
        order += [i for i in range(len(roles)) if i not in order]
        return Answer(tuple(self.tensors[i] for i in order), tuple(self.names[i] for i in order))


def role_of(name: str) -> str | None:
    """Return what an output is by its name: `mean`, one of `spec.vae.SPREADS`, or None.

    >>> [role_of(name) for name in ("mu", "z_mean", "logVar", "log_sigma_sq", "std", "h")]
    ['mean', 'mean', 'logvar', 'logvar', 'sigma', None]
    """
    words = [word.lower() for word in _WORDS.findall(name)]
    joined = "".join(word for word in words if word not in _FRAME)
    return _ROLE.get(joined) or _ROLE.get(joined.removeprefix("z").removesuffix("z"))


def is_possible(kind: str, spread: Tensor) -> bool:
    """Tell whether values can be what a name says: deviations and variances are above 0."""
    return kind not in ("sigma", "sigma2") or bool((spread > 0).all())


def is_constant(rows: Tensor) -> bool:
    """Tell whether all rows are equal, but for rounding."""
    return bool(((rows - rows[:1]).abs() <= SAME * (1 + rows.abs())).all())


def same_values(first: Tensor, second: Tensor) -> bool:
    """Tell whether two outputs are equal, but for rounding, and finite."""
    if first.shape != second.shape or not bool(first.isfinite().all()):
        return False
    return bool(((first - second).abs() <= SAME * (1 + first.abs())).all())


def read_answer(out: object, half: str) -> Answer:
    """Return the tensors of an answer: one, those of a tuple, or those that have names.

    Args:
        out: What the owner's code returned.
        half: `encoder` or `decoder`, for errors.

    Raises:
        StructureError: There is no tensor, or something else among those without names.
    """
    if isinstance(out, Tensor):
        return Answer((out,), ("",))
    named = _named(out)
    if named is not None:
        found = {name: part for name, part in named.items() if isinstance(part, Tensor)}
        if found:
            return Answer(tuple(found.values()), tuple(found))
    kinds = type(out).__name__
    if isinstance(out, tuple | list) and out:
        parts = [part for part in out if isinstance(part, Tensor)]
        if len(parts) == len(out):
            return Answer(tuple(parts), ("",) * len(parts))
        kinds = ", ".join(type(part).__name__ for part in out[:4])
    raise StructureError(
        f"Running the {half} of an autoencoder", f"an answer of {kinds}",
        "it must be a tensor, or a tuple of tensors", f"Let its {half} return tensors.",
    )  # fmt: skip


def _named(out: object) -> dict[str, object] | None:
    """Return the parts of a dictionary, named tuple or dataclass by name."""
    if isinstance(out, Mapping):
        return {str(key): value for key, value in out.items()}
    if isinstance(out, tuple) and hasattr(out, "_fields"):
        return dict(zip(out._fields, out, strict=True))
    if is_dataclass(out) and not isinstance(out, type):
        return {field.name: getattr(out, field.name) for field in fields(out)}
    return None
