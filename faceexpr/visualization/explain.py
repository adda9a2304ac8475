"""Draw which parts of a face speak for a class: Grad-CAM, and the gradient where there is no feature map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from faceexpr.models.base import ExpressionNet
from faceexpr.models.preprocess import LUMA
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import as_faces

LEAST_SIDE = 3
"""Cells a side below which a feature map says next to nothing of places."""

MOST_TOKENS = 8
"""Of a transformer, beside those of its cells: for the class, and registers."""

COLOURS = "inferno"
"""Of matplotlib: lightness grows evenly with the value, also for who sees no red or green, or prints in grey."""

_OPACITY = 0.75
"""Of the largest value; smaller ones are as much more transparent, so that the face shows where nothing is."""


def require_captum() -> None:
    """Raise a `FaceExprError` where Captum is not installed."""
    try:
        import captum.attr  # noqa: F401
    except ImportError as error:
        raise FaceExprError(
            "explain needs Captum, which is not installed; expected: pip install 'faceexpr[explain]'"
        ) from error


def explained_network(model: nn.Module) -> ExpressionNet:
    """Return the network of a classifier, such as a task.

    Raises:
        FaceExprError: it has none, such as K nearest neighbours, or Captum is not installed.
    """
    net = getattr(model, "net", None)
    if not isinstance(net, ExpressionNet):
        raise FaceExprError(f"explain: {type(model).__name__} has no gradients to explain it by; expected a network")
    require_captum()
    return net


def class_maps(net: ExpressionNet, faces: Tensor, classes: Sequence[int] | None = None) -> NDArray[np.float32]:
    """Compute maps of the parts of faces that speak for a class.

    Grad-CAM (Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization",
    2017) on the network's last feature map (see `last_feature_map`), each cell at the place that it sees. For networks
    without one, the size of the gradient at each pixel (Simonyan et al., "Deep inside convolutional networks", 2014).
    Modes, gradients and parameters of the network stay as they are.

    Args:
        net: the network, on any device.
        faces: uint8 in 0 to 255 or floating point in 0 to 1, shape (N, 1 or 3, H, W); an array will do.
        classes: the index of the class for each face; by default the one that the network gives it.

    Returns:
        float32 (N, H, W), 0 to 1: the largest value of each face is 1, or all are 0 where nothing speaks for the class.

    Raises:
        FaceExprError: Captum is not installed.
    """
    require_captum()
    from captum.attr import LayerAttribution, LayerGradCam, Saliency
    from torchvision.transforms.v2.functional import gaussian_blur

    faces = as_faces(faces, "faces")
    if not len(faces):
        return np.zeros((0, *faces.shape[-2:]), dtype=np.float32)
    # Evaluations run in inference mode, whose tensors take part in no gradient.
    with torch.inference_mode(False), torch.enable_grad(), _evaluating(net):
        images = net.preprocess(faces.detach().clone().to(net.preprocess.mean.device)).detach()
        with torch.no_grad():
            given = None if classes is None else torch.tensor([*classes], device=images.device)
            chosen = net.classify(images).argmax(dim=1) if given is None else given
        found = last_feature_map(net, images[:1])
        # The images take a gradient so that there is one even where all parameters are frozen.
        images = images.clone().requires_grad_()
        if found is None:
            maps = Saliency(net.classify).attribute(images, target=chosen).detach().float().amax(dim=1, keepdim=True)
            # Neighbouring pixels say nearly the same, and their gradients alternate.
            maps = gaussian_blur(functional.pad(maps, (4, 4, 4, 4)), [5, 5], [1.0, 1.0])[..., 4:-4, 4:-4]
        else:
            with found.arranged() as layer:
                maps = LayerGradCam(net.classify, layer).attribute(images, target=chosen, relu_attributions=True)
            # From the cells of the feature map to the pixels of the network's input.
            spans = np.round(found.step * maps.shape[-2:]).astype(int)
            starts = np.round(found.first - (found.step - 1) / 2).astype(int)
            (top, left), (bottom, right) = starts, np.array(images.shape[-2:]) - starts - spans
            maps = LayerAttribution.interpolate(maps.detach().float(), (*spans.tolist(),), "bilinear")
            maps = functional.pad(maps, (int(left), int(right), int(top), int(bottom)))
        maps = LayerAttribution.interpolate(maps, tuple(faces.shape[-2:]), "bilinear")[:, 0]
        largest = maps.amax(dim=(1, 2), keepdim=True)
        scaled: NDArray[np.float32] = torch.where(largest > 0, maps / largest, torch.zeros_like(maps)).cpu().numpy()
        return scaled


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Leave every module in the mode that it had."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class FeatureMap(NamedTuple):
    """A layer whose output is a feature map, and where its cells lie in the network's input, down and across.

    Attributes:
        first: the middle of the first cell in pixels; that of the first pixel is 0.
        step: from one cell to the next in pixels.
        cells: down and across, where the layer's output has the channels last, as transformers have them: (N, cells,
            channels) after other tokens, or (N, down, across, channels).
    """

    layer: nn.Module
    first: NDArray[np.float64]
    step: NDArray[np.float64]
    cells: tuple[int, int] | None = None

    @contextmanager
    def arranged(self) -> Iterator[nn.Module]:
        """Give a layer whose output is (N, channels, down, across)."""
        if self.cells is None:
            yield self.layer
            return
        (down, across), passed = self.cells, nn.Identity()

        def pass_on(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            tokens = output.flatten(1, -2)
            others, places = tokens[:, : -down * across], tokens[:, -down * across :]
            seen = passed(places.unflatten(1, (down, across)).permute(0, 3, 1, 2))
            return torch.cat([others, seen.flatten(2).transpose(1, 2)], dim=1).view_as(output)

        with self.layer.register_forward_hook(pass_on):
            yield passed


@torch.enable_grad()
def last_feature_map(net: ExpressionNet, images: Tensor) -> FeatureMap | None:
    """Find the last feature map with at least 3 x 3 cells.

    It is looked for while the network runs, so that every network has one that is made of modules: of all modules
    that run once the last to finish, not before the first convolution. Convolutions and poolings without padding lose
    the border, so that their cells do not spread over the whole image; those of other modules do. Of transformers it is
    the last layer on whose cells, and not only on a token for the class, the logits depend.

    It is None for a network without such a map, such as one without convolutions. One or more images are
    pre-processed, (N, channels, size, size).
    """
    pixels = images.shape[-2:]
    places = {pixels: (np.zeros(2), np.ones(2))}
    maps: list[tuple[nn.Module, torch.Size, Tensor | None]] = []
    runs: Counter[nn.Module] = Counter()

    def look(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        runs[module] += 1
        if not isinstance(output, Tensor) or output.ndim not in (3, 4) or len(output) != len(images):
            return
        cells = _channels_last(output, [size for _, size, _ in maps])
        if cells is not None and not isinstance(module, nn.Linear):
            maps.append((module, cells, output))
        if cells is not None or output.ndim == 3:
            return
        # None is larger than the first, which what attention says of pairs of cells may be.
        if max(output.shape[-2:]) <= max(maps[0][1]) if maps else isinstance(module, nn.Conv2d):
            maps.append((module, output.shape[-2:], None))
        known = isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) and not isinstance(module.padding, str)
        if known and inputs[0].shape[-2:] in places:
            first, step = places[inputs[0].shape[-2:]]
            kernel, padding, stride, dilation = (
                np.broadcast_to(getattr(module, name, 1), 2)
                for name in ("kernel_size", "padding", "stride", "dilation")
            )
            # Branches that meet again have the same places: the first to reach a size says where its cells are.
            places.setdefault(
                output.shape[-2:], (first + ((kernel - 1) * dilation / 2 - padding) * step, step * stride)
            )

    handles = [module.register_forward_hook(look) for module in net.modules() if module is not net]
    try:
        logits = net.classify(images.clone().requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    for layer, size, output in reversed(maps):
        if runs[layer] == 1 and min(size) >= LEAST_SIDE:
            if output is not None:
                (slope,) = torch.autograd.grad(logits.square().sum(), output, retain_graph=True, allow_unused=True)
                if slope is None or not slope.flatten(1, -2)[:, -size.numel() :].any():
                    continue
            even = np.array(pixels) / size
            cells = None if output is None else (size[0], size[1])
            return FeatureMap(layer, *places.get(size, ((even - 1) / 2, even)), cells)
    return None


def _channels_last(output: Tensor, sizes: Sequence[torch.Size]) -> torch.Size | None:
    """Return the cells, down and across, of an output whose last dimension are channels; None for any other.

    Args:
        output: (N, tokens, channels), of which the last are the cells of a feature map, or (N, side, side, channels).
        sizes: of the feature maps before it.
    """
    if output.ndim == 4:
        return output.shape[1:3] if output.shape[1] == output.shape[2] != output.shape[3] else None
    return next((size for size in reversed(sizes) if 0 <= output.shape[1] - size.numel() <= MOST_TOKENS), None)


def overlay(face: NDArray[np.uint8], values: NDArray[np.float32], height: int, width: int) -> NDArray[np.uint8]:
    """Lay a map, (h, w) from 0 to 1, over a face, (H, W) or RGB (H, W, 3), in grey: RGB, uint8 (height, width, 3)."""
    from matplotlib import colormaps

    grey = _resized(face @ np.array(LUMA) if face.ndim == 3 else face, height, width).clip(0, 255)[:, :, None]
    strength = _resized(values, height, width).clip(0, 1)
    colours = colormaps[COLOURS](strength)[:, :, :3] * 255
    share = _OPACITY * strength[:, :, None]
    mixed: NDArray[np.uint8] = np.round((1 - share) * grey + share * colours).astype(np.uint8)
    return mixed


def side_by_side(face: NDArray[np.uint8], values: NDArray[np.float32], height: int, gap: int) -> NDArray[np.uint8]:
    """Return a face and, to the right of it after white pixels, its map over it (see `overlay`).

    The image is RGB, uint8 (height, 2 w + gap, 3), where w keeps the proportions of the face.
    """
    width = max(1, round(height * face.shape[1] / face.shape[0]))
    channels = face[:, :, None].repeat(3, axis=2) if face.ndim == 2 else face
    plain = _resized(channels, height, width).clip(0, 255).round().astype(np.uint8)
    between = np.full((height, gap, 3), 255, dtype=np.uint8)
    return np.concatenate([plain, between, overlay(face, values, height, width)], axis=1)


def _resized(values: NDArray[np.generic], height: int, width: int) -> NDArray[np.float32]:
    """Return an image, (H, W) or (H, W, C), at another size, smoothly, in float32."""
    planes = torch.from_numpy(np.atleast_3d(np.array(values, dtype=np.float32))).permute(2, 0, 1)
    resized = functional.interpolate(planes[None], (height, width), mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    result: NDArray[np.float32] = resized.numpy().reshape(height, width, *values.shape[2:])
    return result
