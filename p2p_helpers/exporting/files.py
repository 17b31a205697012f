"""ONNX files: written from modules, with small weights, and compared with torch at once."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError

OPSET = 17
TOLERANCE = 1e-3  # of the output's standard deviation
GREY = 1 / 255  # of a picture, whose values are 0…1
LARGEST = 2**31 - 2**20  # bytes of the weights of one file, with room for the graph


def write(module: nn.Module, file: Path, rows: int) -> dict:
    """Write a module as one ONNX file that takes any number of rows, and compare it with torch.

    Weights that are half-precision numbers are stored as such. The graph turns them into float32
    when it is loaded, so this loses nothing.

    Args:
        module: with the names of its `inputs` and `outputs`, and an `example` of its inputs.
        rows: of the example to be traced; it is compared with one row fewer.

    Returns:
        By its name, the file's `bytes` and `sha256`, and the largest `difference` from torch; and
        bytes and digest of the file beside it that has the weights of a graph of more than 2 GiB.

    Raises:
        ModelError: ONNX is not installed, or it computes something else than torch.
    """
    onnx, _ = libraries()
    model = _traced(module, rows)
    _halve(model.graph)
    beside = file.with_name(f"{file.name}.data")
    beside.unlink(missing_ok=True)  # weights are appended to what is there
    large = sum(len(weight.raw_data) for weight in model.graph.initializer) > LARGEST
    how = {"save_as_external_data": True, "location": beside.name} if large else {}
    onnx.save(model, file, **how)
    del model
    facts = {path.name: _facts(path) for path in (file, beside) if path.exists()}
    facts[file.name]["difference"] = _difference(module, file, rows - 1)
    return facts


def _facts(file: Path) -> dict:
    """How large a file is, and its digest."""
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while part := content.read(2**24):
            digest.update(part)
    return {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}


def _traced(module: nn.Module, rows: int):
    """The graph of a module in float32. Large ones come in many files, which are gone then."""
    onnx, _ = libraries()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shapes that do not change are traced as numbers
        file = Path(folder) / "graph.onnx"
        torch.onnx.export(
            module,
            module.example(rows),
            str(file),
            input_names=list(module.inputs),
            output_names=list(module.outputs),
            dynamic_axes={name: {0: "row"} for name in _with_rows(module)},
            opset_version=OPSET,
            dynamo=False,
        )
        return onnx.load(file)


def libraries():
    """ONNX and its runtime. Raises ModelError if they are not installed."""
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            f"{error.name} is not installed, and p2p export needs it. Install it: "
            'pip install "p2p-helpers[export]"'
        ) from error
    return onnx, onnxruntime


def _with_rows(module: nn.Module) -> list[str]:
    """The inputs and outputs that have a row for each of the batch."""
    return [name for name in (*module.inputs, *module.outputs) if name != "timestep"]


def _halve(graph):
    """Store as half precision what loses nothing by it, with a node that turns it back."""
    from onnx import TensorProto, helper, numpy_helper

    kept, nodes = [], []
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        half = _half(values) if weight.data_type == TensorProto.FLOAT else None
        if half is None:
            kept.append(weight)
            continue
        name = f"{weight.name}.half"
        kept.append(numpy_helper.from_array(half, name))
        nodes.append(helper.make_node("Cast", [name], [weight.name], to=TensorProto.FLOAT))
    nodes.extend(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)


def _half(values: np.ndarray) -> np.ndarray | None:
    """The values in half precision, or None if that would change one."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), values) else None


def _difference(module: nn.Module, file: Path, rows: int) -> float:
    """The largest difference between torch and the file, on inputs that were not traced.

    It is counted in standard deviations of the output, of pictures in grey levels.
    """
    _, runtime = libraries()
    example = module.example(rows)
    with torch.no_grad():
        wanted = module(*example)
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    given = zip(module.inputs, (value.numpy() for value in example), strict=True)
    found = session.run(list(module.outputs), dict(given))
    largest = 0.0
    for name, one, other in zip(module.outputs, wanted, found, strict=True):
        largest = max(largest, _compared(file, name, one, torch.from_numpy(other)))
    return largest


def _compared(file: Path, name: str, wanted: Tensor, found: Tensor) -> float:
    """The largest difference of one output. Raises ModelError if it is too large."""
    unit, most, what = wanted.std().item(), TOLERANCE, "of a standard deviation"
    if name == "pictures":
        unit, most, what = GREY, 1.0, "grey levels"
    difference = (wanted - found).abs().max().item() / unit
    if not difference <= most:
        raise ModelError(
            f"In {file.name} ONNX's {name} differ from torch's by {difference:.2g} {what}, more "
            f"than {most:g}. The file is of no use. Another version of onnxruntime or torch may do."
        )
    return difference
