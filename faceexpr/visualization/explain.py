"""Maps of the parts of a face that speak for a class: Grad-CAM, and the gradient where there is no feature map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from faceexpr.models.base import ExpressionNet
from faceexpr.utils.errors import FaceExprError
from faceexpr.visualization.feature_map import Axis, FeatureMap, last_feature_map


def require_captum(option: str) -> None:
    """Refuse an option that needs Captum where it is not installed.

    Args:
        option: what was asked for, as it is written on the command line.

    Raises:
        FaceExprError: it is not installed.
    """
    try:
        import captum.attr  # noqa: F401
    except ImportError as error:
        raise FaceExprError(
            f"{option} needs Captum, which is not installed; expected: pip install 'faceexpr[explain]'"
        ) from error


def explained_network(model: nn.Module, option: str) -> ExpressionNet:
    """Return the network of a classifier.

    Args:
        model: the classifier, such as a task.
        option: what was asked for, for the message.

    Raises:
        FaceExprError: it has none, such as K nearest neighbours, or Captum is not installed.
    """
    net = getattr(model, "net", None)
    if not isinstance(net, ExpressionNet):
        raise FaceExprError(f"{option}: {type(model).__name__} has no gradients to explain it by; expected a network")
    require_captum(option)
    return net


def class_maps(net: ExpressionNet, faces: Tensor, classes: Sequence[int] | None = None) -> NDArray[np.float32]:
    """Tell which parts of faces speak for a class.

    Grad-CAM (Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization",
    2017) on the network's last feature map (see `last_feature_map`), each cell at the place that it sees. For networks
    without one, the size of the gradient at each pixel (Simonyan et al., "Deep inside convolutional networks", 2014).
    Modes, gradients and parameters of the network stay as they are.

    Args:
        net: the network, on any device.
        faces: uint8 in 0 to 255 or floating point in 0 to 1, shape (N, 1 or 3, H, W).
        classes: the index of the class for each face; by default the one that the network gives it.

    Returns:
        float32 (N, H, W), from 0 to 1, which is the largest value of each face; all 0 where nothing speaks for the
        class.

    Raises:
        FaceExprError: Captum is not installed.
    """
    require_captum("class_maps")
    height, width = faces.shape[-2:]
    if not len(faces):
        return np.zeros((0, height, width), dtype=np.float32)
    # Evaluations run in inference mode, whose tensors take part in no gradient.
    with torch.inference_mode(False), torch.enable_grad(), _evaluating(net):
        images = net.preprocess(faces.detach().clone().to(net.preprocess.mean.device)).detach()
        chosen = _predicted(net, images) if classes is None else torch.tensor(list(classes), device=images.device)
        found = last_feature_map(net, images[:1])
        if found is None:
            maps = _resized(_gradients(net, images, chosen), height, width)
        else:
            maps = _placed(_grad_cam(net, images, chosen, found.layer), found, images.shape[-2:], (height, width))
        largest = maps.amax(dim=(1, 2), keepdim=True)
        scaled: NDArray[np.float32] = torch.where(largest > 0, maps / largest, torch.zeros_like(maps)).cpu().numpy()
        return scaled


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Run the network as in evaluation, and leave every module in the mode that it had."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def _predicted(net: ExpressionNet, images: Tensor) -> Tensor:
    return net.classify(images).argmax(dim=1)


def _grad_cam(net: ExpressionNet, images: Tensor, classes: Tensor, layer: nn.Module) -> Tensor:
    """Return the maps in the cells of a layer, (N, h, w), 0 or more."""
    from captum.attr import LayerGradCam

    # The images take a gradient so that there is one even where all parameters are frozen.
    attribute = LayerGradCam(net.classify, layer).attribute
    maps: Tensor = attribute(images.clone().requires_grad_(), target=classes, relu_attributions=True)
    return maps.detach().float()[:, 0]


def _gradients(net: ExpressionNet, images: Tensor, classes: Tensor) -> Tensor:
    """Return the size of the gradient around each pixel of the network's input, (N, size, size)."""
    from captum.attr import Saliency

    maps: Tensor = Saliency(net.classify).attribute(images.clone().requires_grad_(), target=classes)
    # Neighbouring pixels say nearly the same, and their gradients alternate.
    smooth = _smoothing(torch.arange(images.shape[-1], dtype=torch.float64), 1.0).to(maps.device, torch.float32)
    return smooth @ maps.detach().float().amax(dim=1) @ smooth.T


def _resized(maps: Tensor, height: int, width: int) -> Tensor:
    if maps.shape[-2:] == (height, width):
        return maps
    return functional.interpolate(maps[:, None], (height, width), mode="bilinear", antialias=True)[:, 0]


def _placed(maps: Tensor, found: FeatureMap, image: Sequence[int], face: tuple[int, int]) -> Tensor:
    """Return the maps at the pixels of the faces.

    Args:
        maps: (N, h, w), in the cells of a feature map.
        found: says where the cells lie in the network's input.
        image: height and width of that input.
        face: height and width of the faces.

    Returns:
        (N, *face).
    """
    down, across = (
        _weights(pixels, size, axis, number).to(maps)
        for pixels, size, axis, number in zip(face, image, (found.down, found.across), found.size, strict=True)
    )
    return down @ maps @ across.T


def _weights(pixels: int, size: int, axis: Axis, cells: int) -> Tensor:
    """Return how much each pixel of a face takes of each cell, float64 (pixels, cells).

    Between the middles of two cells it takes of both in proportion. Outside of all cells, which those of convolutions
    without padding leave a border for, their values fade away. Where cells see more than the way to the next, the
    result is smoothed, as one value says nothing of what is where in its field; no more than a twelfth of the image,
    since the middle of a field counts most.
    """
    places = (torch.arange(pixels, dtype=torch.float64) + 0.5) * size / pixels - 0.5
    at = (places - axis.first) / axis.step
    within = at.clamp(0, cells - 1)
    outside = at - within
    at = within + outside.sign() * (outside.abs() - 0.5).clamp(min=0)
    weights = (1 - (at[:, None] - torch.arange(cells)).abs()).clamp(min=0)
    spread = min((axis.field - axis.step) / 5, size / 12)
    if spread <= 0:
        return weights
    return _smoothing(places, spread) @ weights


def _smoothing(places: Tensor, spread: float) -> Tensor:
    """Return the weights of a Gaussian mean over places, (P, P); at the ends it is of those that there are."""
    near = torch.exp(-0.5 * ((places[:, None] - places) / spread) ** 2)
    return near / near.sum(dim=1, keepdim=True)
