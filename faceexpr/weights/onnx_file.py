"""ONNX files: write a program as one, suppression included, make it int8, and open it with ONNX Runtime."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from faceexpr.utils.errors import FaceExprError

if TYPE_CHECKING:
    from torch import Tensor, nn

ONNX = ".onnx"

Runtime: TypeAlias = Literal["torch", "onnx"]

OPSET = 20
"""Version of ONNX's operators; anti-aliased resizing came with 18."""

INPUT = "images"

LIMITS: Mapping[str, Any] = {"min_score": np.float32, "iou": np.float32, "max_faces": np.int64}
"""Further inputs of a detector, which have defaults: what they are is said in `Suppression`."""

EVERYTHING: Mapping[str, int] = {"iou": 1, "max_faces": 10_000}
"""Those by which a detector's program gives all candidates: none has more, or suppresses another."""

SUPPRESSION = """
suppression (float[N, K, 4] all_boxes, float[N, K] all_scores, float min_score, float iou, int64 max_faces)
    => (float[faces, 4] boxes, float[faces] scores, int64[faces] image)
    <float none = {-1}, float least = {-0.5}, int64[1] one = {1}, int64 of_image = {0}, int64[2] places = {0, 2}>
{
    sure = GreaterOrEqual(all_scores, min_score)
    sure_scores = Where(sure, all_scores, none)
    class_scores = Unsqueeze(sure_scores, one)
    chosen = NonMaxSuppression(all_boxes, class_scores, max_faces, iou, least)
    chosen_places = Gather<axis = 1>(chosen, places)
    boxes = GatherND(all_boxes, chosen_places)
    scores = GatherND(all_scores, chosen_places)
    image = Gather<axis = 1>(chosen, of_image)
}
"""
"""What follows a detector's network: of each image the surest face first, as ``NonMaxSuppression`` gives them."""

QUANTISED = ("Conv", "Add", "Mul", "Relu", "Concat", "MaxPool", "AveragePool", "Resize")
"""Operators that are computed in int8, between the first and the last convolution."""


def require_package(*names: str) -> None:
    """Refuse with a `FaceExprError` where a package of the extra is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise FaceExprError(f"{name} is not installed; install it with pip install 'faceexpr[onnx]'")


def write_onnx(
    program: nn.Module,
    example: Tensor,
    sizes: Mapping[int, Any],
    path: Path,
    metadata: Mapping[str, Any],
    limits: Mapping[str, float] | None = None,
) -> None:
    """Write a program of one input as an ONNX file.

    Args:
        program: set to evaluation.
        example: an input.
        sizes: its dynamic dimensions.
        path: the file.
        metadata: plain values; each becomes an entry of the file's ``metadata_props``, in JSON.
        limits: of a detector, whose outputs are boxes (N, K, 4) and scores (N, K): defaults of `LIMITS`, for the
            suppression that is added.

    Raises:
        FaceExprError: a package is not installed.
    """
    require_package("onnx", "onnxscript", "onnxruntime")
    import onnx
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the exporter deprecates in itself
        written = torch.onnx.export(
            program,
            (example,),
            dynamic_shapes=(dict(sizes),),
            input_names=[INPUT],
            output_names=["probabilities"] if limits is None else ["all_boxes", "all_scores"],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert written is not None
    model = written.model_proto
    if limits is not None:
        _add_suppression(model.graph, limits)
    _save(model, path, metadata)
    onnx.checker.check_model(str(path))


def _save(model: Any, path: Path, metadata: Mapping[str, Any]) -> None:
    import onnx

    entries = {name: json.dumps(value, ensure_ascii=False) for name, value in metadata.items()}
    onnx.helper.set_model_props(model, entries)
    onnx.save(model, str(path))


def _add_suppression(graph: Any, limits: Mapping[str, float]) -> None:
    """Let a graph give boxes (F, 4), their scores (F,), and which image of the batch each is of (F,)."""
    from onnx import numpy_helper, parser

    added = parser.parse_graph(SUPPRESSION)
    graph.initializer.extend(numpy_helper.from_array(np.array(limits[name], LIMITS[name]), name) for name in LIMITS)
    graph.initializer.extend(added.initializer)
    graph.input.extend(own for own in added.input if own.name in LIMITS)
    graph.node.extend(added.node)
    del graph.output[:]
    graph.output.extend(added.output)


def quantise(path: Path, out: Path, batches: Iterable[NDArray[np.uint8]], metadata: Mapping[str, Any]) -> None:
    """Write a float32 file in int8: what lies between its first and its last convolution.

    Weights have a scale a channel, and seven bits: CPUs without VNNI would add eight with saturation.

    Args:
        path: the float32 file.
        out: the file to write.
        batches: inputs, from which the ranges of all values in between are taken.
        metadata: as for `write_onnx`.
    """
    import onnx
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    onnxruntime.set_default_logger_severity(3)  # it warns of inputs that have defaults
    coming = iter(batches)
    reader = SimpleNamespace(get_next=lambda: next(({INPUT: batch} for batch in coming), None))
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = str(Path(folder, "prepared.onnx"))
        quant_pre_process(str(path), prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            str(out),
            reader,
            nodes_to_quantize=_between_convolutions(onnx.load(prepared).graph),
            op_types_to_quantize=[*QUANTISED],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    _save(onnx.load(str(out)), out, metadata)


def _between_convolutions(graph: Any) -> list[str]:
    """Return the names of nodes after (or at) a convolution and before another: neither pixels nor results."""
    after: set[str] = set()
    for node in graph.node:  # in an order in which they can be computed
        if node.op_type == "Conv" or after & {*node.input}:
            after.update(node.output)
    before: set[str] = set()
    chosen = []
    for node in reversed(graph.node):
        if before & {*node.output}:
            before.update(node.input)
            if after & {*node.output} and node.op_type in QUANTISED:
                chosen.append(node.name)
        elif node.op_type == "Conv":
            before.update(node.input)
    return chosen


def open_onnx(path: Path, threads: int = 1) -> tuple[Callable[..., list[Any]], dict[str, Any]]:
    """Return what runs a file by ONNX Runtime on the CPU, and the file's metadata.

    The former takes images, uint8 (N, C, H, W), and `LIMITS` by name, and returns the outputs as arrays.

    Raises:
        FaceExprError: ONNX Runtime is not installed, or the file is none that this package has written.
    """
    require_package("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # warnings of its optimiser are nothing that a user can help
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        entries = session.get_modelmeta().custom_metadata_map
        metadata = {name: json.loads(value) for name, value in entries.items() if "faceexpr" in entries}
    except Exception as error:  # ONNX Runtime has a class of its own for each kind of damage
        raise FaceExprError(f"{path} cannot be read as an ONNX file: {' '.join(str(error).split())}") from error
    if not metadata:
        raise FaceExprError(f"{path} does not say what it gives; expected a file that faceexpr export has written")

    def run(images: NDArray[np.uint8], **limits: float) -> list[Any]:
        given = {name: np.array(value, LIMITS[name]) for name, value in limits.items()}
        return list(session.run(None, {INPUT: images, **given}))

    return run, metadata
