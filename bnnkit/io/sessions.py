"""ONNX models under onnxruntime. The one file that imports it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnnkit.errors import FileRefusedError, UsageError
from bnnkit.graph.outputs import MAIN_KEYS
from bnnkit.io.export import check_onnx
from bnnkit.spec.noise import MOST_NOISE

__all__ = ["NOISE_KEY", "OnnxModel", "OnnxProgram"]

NOISE_KEY = "bnnkit.noise"
"""Property of an ONNX file with a `noise` input: JSON with its `samples`, `size` and `seed`."""


_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(uint8)": torch.uint8,
}
_ELEMENTS = {torch.float32: 1, torch.float64: 11, torch.float16: 10, torch.int64: 7}
_ELEMENTS |= {torch.int32: 6, torch.uint8: 2}  # onnx.TensorProto's numbers


class OnnxModel:
    """An ONNX file in an onnxruntime session, from tensor to tensor.

    Args:
        path: The file.
        device: `cpu` or `cuda`; the CPU is used where onnxruntime has no CUDA provider.
        threads: Threads inside one operator; None takes onnxruntime's own choice.
        labelled: Whether it may take labels `[b]` or `[b, classes]` as a second input.

    Raises:
        FileRefusedError: The file is broken, hostile or unknown to onnxruntime.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        labelled: bool = False,
    ) -> None:
        check_onnx(path)
        self._session = _session(Path(path), device, threads)
        self.device = "cpu" if self._session.get_providers()[0].startswith("CPU") else "cuda"
        inputs = self._session.get_inputs()
        self._noise = _seeded_noise(self._session) if len(inputs) == 2 else None
        told = labelled and len(inputs) == 2 and self._noise is None
        known = all(i.type in _DTYPES for i in inputs[: 1 + told])
        if (len(inputs) != 1 and self._noise is None and not told) or not known:
            raise FileRefusedError(
                f"Opening {str(path)!r}",
                ", ".join(f"input {i.name!r} of {i.type}" for i in inputs) or "no input",
                "one input of numbers is needed",
                "Export the model with a single tensor as its input.",
            )
        self._input = inputs[0].name
        self.dtype = _DTYPES[inputs[0].type]
        self.shape = [n if isinstance(n, int) else None for n in inputs[0].shape]
        self._labels = inputs[1].name if told else None
        self.labels = _DTYPES[inputs[1].type] if told else None
        names = [output.name for output in self._session.get_outputs()]
        self._output = next((key for key in MAIN_KEYS if key in names), names[0])

    def __call__(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Run one batch, with labels where it takes them; the answer is on the CPU."""
        x = x.detach().to(self.device).contiguous()
        if x.is_cuda:
            torch.cuda.synchronize(x.device)  # onnxruntime has a stream of its own
        binding = self._session.io_binding()
        binding.bind_input(
            self._input,
            self.device,
            x.device.index or 0,
            _ELEMENTS[self.dtype],
            list(x.shape),
            x.data_ptr(),
        )
        if self._noise is not None:
            binding.bind_cpu_input("noise", self._noise)
        if self._labels is not None and self.labels is not None and labels is not None:
            binding.bind_cpu_input(self._labels, labels.cpu().to(self.labels).numpy())
        binding.bind_output(self._output, "cpu")
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise FileRefusedError(
                f"Running ONNX on an input of {list(x.shape)}",
                str(error).splitlines()[0][:300],
                "onnxruntime stopped inside the model",
                "Export the model again, and let it take any batch size.",
            ) from error
        return torch.from_numpy(binding.get_outputs()[0].numpy())


class OnnxProgram:
    """An ONNX file of several named inputs and outputs, on the CPU.

    Args:
        path: The file.
        threads: Threads inside one operator; None takes onnxruntime's own choice.

    Raises:
        FileRefusedError: The file is broken, hostile or unknown to onnxruntime.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        check_onnx(path)
        self._session = _session(Path(path), "cpu", threads)

    def __call__(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> list[Tensor]:
        """Run it.

        Args:
            inputs: By name.
            outputs: Names of what is wanted.

        Raises:
            FileRefusedError: onnxruntime stopped.
        """
        arrays = {k: value.detach().cpu().contiguous().numpy() for k, value in inputs.items()}
        try:
            found = self._session.run(list(outputs), arrays)
        except Exception as error:
            raise FileRefusedError(
                "Running ONNX on " + ", ".join(f"{k} {list(v.shape)}" for k, v in inputs.items()),
                str(error).splitlines()[0][:300],
                "onnxruntime stopped inside the model",
                "Export the model again, and let it take any batch size.",
            ) from error
        return [torch.from_numpy(value) for value in found]


def _seeded_noise(session: Any) -> Any:  # noqa: ANN401 - optional
    """Return the noise that a stochastic model of ours answers with by default, or None."""
    found = session.get_modelmeta().custom_metadata_map.get(NOISE_KEY)
    if found is None or session.get_inputs()[1].name != "noise":
        return None
    try:
        recipe = {key: int(value) for key, value in json.loads(found).items()}
        if not 0 < recipe["samples"] * recipe["size"] <= MOST_NOISE:
            return None
        generator = torch.Generator().manual_seed(recipe["seed"])
        return torch.randn(recipe["samples"], recipe["size"], generator=generator).numpy()
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError, RuntimeError):
        return None  # somebody else's file: it is refused for its second input


def _session(path: Path, device: str, threads: int | None) -> Any:  # noqa: ANN401 - optional
    """Open the session, with nothing of onnxruntime's own on the terminal."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            "Running ONNX", str(error), "onnxruntime is needed", "Type: pip install onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come back as exceptions
    # idle threads that spin on after a run would slow down whatever is timed next
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    known = onnxruntime.get_available_providers()
    providers = [p for p in [*wanted, "CPUExecutionProvider"] if p in known]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise FileRefusedError(
            f"Opening {str(path)!r}",
            str(error).splitlines()[0][:300],
            "onnxruntime cannot run it",
            "Export the model again, or update onnxruntime.",
        ) from error
