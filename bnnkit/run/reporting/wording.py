"""How figures and foreign names are written: one wording for terminal, Markdown and HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = [
    "as_float",
    "bytes_text",
    "change_text",
    "check_form",
    "clean",
    "count_text",
    "figure_text",
    "magnitude",
    "n_text",
    "ratio_text",
    "setting_text",
    "shorten",
]

_EXPORTED = ("onnx", "pt2", "safetensors", "torchscript")
_LARGE, _SMALL = 1e7, 1e-6
_PREFIXES = ("", "k", "M", "G", "T", "P")


def clean(text: object) -> str:
    r"""Return foreign text on one line, without control or direction-changing characters.

    Names come out of untrusted files: an escape sequence in a layer name must not reach a
    terminal, nor a NUL an XML file.

    >>> clean("conv\x1b[31m\nfc")
    'conv�[31m fc'
    """
    flat = " ".join(str(text).split())
    return "".join(c if c.isprintable() else "\ufffd" for c in flat)


def shorten(text: object, width: int) -> str:
    """Return cleaned text of at most `width` characters, its middle left out.

    >>> shorten("features.denseblock4.denselayer16.conv2", 20)
    'features.d…r16.conv2'
    """
    whole = clean(text)
    if len(whole) <= width:
        return whole
    tail = (width - 1) // 2
    return f"{whole[: width - 1 - tail]}…{whole[len(whole) - tail :]}"


def as_float(node: object) -> float:
    """Return the value of a figure or of a plain number; NaN where there is neither."""
    if isinstance(node, Mapping):
        node = node.get("value")
    if isinstance(node, bool) or not isinstance(node, int | float):
        return math.nan
    try:
        return float(node)
    except OverflowError:
        return math.nan


def _decimals(half_width: float) -> int:
    """Return the decimals that show two significant digits of the half-width."""
    if not (math.isfinite(half_width) and half_width > 0):
        return 2
    return min(max(1 - math.floor(math.log10(half_width)), 0), 8)


def figure_text(node: object, *, sign: bool = False, unit: bool = True) -> str:
    """Write a figure with its unit and interval.

    Args:
        node: A figure in its dictionary form, a plain number, or anything else (written `-`).
        sign: Whether a rise gets its plus.
        unit: Whether the unit is written.

    >>> figure_text({"value": 8.1, "unit": "%", "n": 10000, "low": 7.57, "high": 8.65})
    '8.10 % [7.57, 8.65]'
    >>> figure_text({"value": 1.2e34, "unit": "nats", "n": 200, "low": 1.1e34, "high": 1.3e34})
    '1.2e+34 nats [1.1e+34, 1.3e+34]'
    """
    value = as_float(node)
    if not isinstance(node, Mapping):
        return "-" if math.isnan(value) else f"{value:{'+' if sign else ''}.4g}"
    name = clean(node.get("unit", "")) if unit else ""
    gap = "" if name == "x" else " "
    if math.isnan(value):
        return "not a number" if "value" in node else "-"
    low, high = as_float(node.get("low")), as_float(node.get("high"))
    plus = "+" if sign else ""
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{value:{plus}.4g}{gap}{name}".rstrip()
    largest = max(abs(value), abs(low), abs(high))
    if largest >= _LARGE or 0 < largest < _SMALL:  # a loss that ran away, or nothing but rounding
        return f"{value:{plus}.3g}{gap}{name}".rstrip() + f" [{low:{plus}.3g}, {high:{plus}.3g}]"
    d = _decimals((high - low) / 2)
    return f"{value:{plus}.{d}f}{gap}{name}".rstrip() + f" [{low:{plus}.{d}f}, {high:{plus}.{d}f}]"


def n_text(*nodes: object) -> str:
    """Return the number of observations behind figures, `-` for exact ones.

    >>> n_text({"value": 8.1, "n": 10000}, {"value": 8.4, "n": 10000})
    '10,000'
    """
    found = [as_float(node.get("n")) for node in nodes if isinstance(node, Mapping)]
    return " / ".join(dict.fromkeys(f"{n:,.0f}" for n in found if not math.isnan(n))) or "-"


def magnitude(value: float) -> str:
    """Write a count with four significant digits and a prefix of 1000.

    >>> magnitude(40_551_424), magnitude(850)
    ('40.55 M', '850')
    """
    if not math.isfinite(value):
        return "-"
    step = 0
    while abs(value) >= 999.95 and step < len(_PREFIXES) - 1:
        value, step = value / 1000, step + 1
    return f"{value:.4g} {_PREFIXES[step]}".rstrip()


def count_text(node: object, unit: str = "") -> str:
    """Write an exact count: in full without a unit, shortened from ten thousand on with one.

    >>> count_text(272474), count_text(40_551_424, "MACs")
    ('272,474', '40.55 M MACs')
    """
    value = as_float(node)
    if not math.isfinite(value):
        return "-"
    text = magnitude(value) if unit and abs(value) >= 1e4 else f"{value:,.0f}"
    return f"{text} {unit}".rstrip()


def bytes_text(node: object) -> str:
    """Write a file size in units of 1000 bytes.

    >>> bytes_text(1_091_532)
    '1.092 MB'
    """
    value = as_float(node)
    text = magnitude(value)
    if text == "-":
        return text
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def ratio_text(node: object, less: str = "fewer", more: str = "more") -> str:
    """Write original / slim in words.

    >>> ratio_text(3.2413), ratio_text(0.5), ratio_text(1.0)
    ('3.24x fewer', '2.00x more', 'unchanged')
    """
    value = as_float(node)
    if not (math.isfinite(value) and value > 0):
        return "-"
    if value == 1:
        return "unchanged"
    return f"{value:.2f}x {less}" if value > 1 else f"{1 / value:.2f}x {more}"


def change_text(before: object, after: object) -> str:
    """Write `64 → 12`, or one number where nothing changed."""
    first, last = count_text(before), count_text(after)
    return first if first == last else f"{first} → {last}"


def setting_text(row: Mapping[str, Any]) -> str:
    """Name the setting of a latency row.

    >>> setting_text({"runtime": "onnxruntime", "device": "cpu", "threads": 1, "batch": 8})
    'onnxruntime, cpu, 1 thread, batch 8'
    """
    parts = [clean(row[key]) for key in ("runtime", "device") if row.get(key) is not None]
    threads, batch = row.get("threads"), row.get("batch")
    if threads is not None:
        parts.append(f"{clean(threads)} thread{'' if threads == 1 else 's'}")
    if batch is not None:
        parts.append(f"batch {clean(batch)}")
    return ", ".join(parts)


def check_form(name: object) -> str | None:
    """Return which exported form a check is about, None for a check inside torch.

    >>> check_form("onnx"), check_form("pt2 (reloaded)"), check_form("gated")
    ('onnx', 'pt2', None)
    """
    word = str(name).lower().replace("(", " ").replace(".", " ").split()
    return next((form for form in _EXPORTED if form in word), None)
