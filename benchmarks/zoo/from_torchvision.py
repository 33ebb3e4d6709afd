"""torchvision: all of its classifiers, segmentation, optical flow, video and detection."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.regnet import BlockParams, RegNet
from torchvision.models.vision_transformer import VisionTransformer

from zoo.entries import Built, Entry

SIDE = 64
SIDES = {"inception_v3": 96, "maxvit_t": 224}
DEPTHS = {"vit_h_14": 4, "vit_l_16": 8, "vit_l_32": 8}
VIDEO_SHAPES = dict.fromkeys(("s3d", "mvit_v1_b", "mvit_v2_s"), (3, 16, 224, 224))
OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
}


def entries() -> Iterator[Entry]:
    """All of them, family by family."""
    models = torchvision.models
    for name in models.list_models(module=models):
        yield Entry(f"torchvision/{name}", partial(classifier, name), note_on(name))
    for name in models.list_models(module=models.segmentation):
        yield Entry(f"segmentation/{name}", partial(segmenter, name))
        if not name.startswith("lraspp"):
            yield Entry(f"segmentation/{name}+aux", partial(segmenter, name, aux_loss=True))
    for name in models.list_models(module=models.optical_flow):
        yield Entry(f"flow/{name}", partial(flow, name))
    for name in models.list_models(module=models.video):
        yield Entry(f"video/{name}", partial(video, name))
    for name in models.list_models(module=models.detection):
        yield Entry(f"detection/{name}", partial(detector, name))
    for name in models.list_models(module=models.detection):
        yield Entry(f"backbone/{name}", partial(backbone, name), "the detector's backbone alone")


def note_on(name: str) -> str:
    """What was taken away from one of the giants."""
    if name in DEPTHS:
        return f"{DEPTHS[name]} blocks"
    return "one block a stage" if name == "regnet_y_128gf" else ""


def classifier(name: str) -> Built:
    """A classifier of 1,000 classes on small images."""
    side = SIDES.get(name, SIDE)
    if name in DEPTHS:
        return vision_transformer(name)
    if name == "regnet_y_128gf":
        return regnet_128(), images(side)
    if name.startswith("vit_"):
        return get(name, image_size=side), images(side)
    return get(name), images(side)


def vision_transformer(name: str) -> Built:
    """The large and the huge one, with their widths and fewer blocks."""
    patch = int(name.rpartition("_")[2])
    heads, width, hidden = (16, 1280, 5120) if "_h_" in name else (16, 1024, 4096)
    model = VisionTransformer(4 * patch, patch, DEPTHS[name], heads, width, hidden)
    return model, images(4 * patch)


def regnet_128() -> nn.Module:
    """The widths of ``regnet_y_128gf``, each stage with a single block."""
    widths = [528, 1056, 2904, 7392]
    return RegNet(BlockParams([1] * 4, widths, [264] * 4, [1.0] * 4, [2] * 4, 0.25))


def segmenter(name: str, **options: bool) -> Built:
    """Whole, on images of which the smallest feature map is still a map."""
    return get(name, weights_backbone=None, **options), images(SIDE)


def flow(name: str) -> Built:
    """RAFT: two images of 128 by 128, the smallest that it takes."""
    return get(name), (*(torch.randn(2, 3, 128, 128) for _ in range(2)),)


def video(name: str) -> Built:
    """Eight small frames, where the network takes so few."""
    return get(name), torch.randn(2, *VIDEO_SHAPES.get(name, (3, 8, SIDE, SIDE)))


def detector(name: str) -> Built:
    """Whole: proposals and non-maximum suppression included."""
    return get(name, weights_backbone=None), torch.rand(2, 3, 128, 128)


def backbone(name: str) -> Built:
    """The feature pyramid, or whatever the detector has for it."""
    model = get(name, weights_backbone=None).backbone
    assert isinstance(model, nn.Module)
    return model, images(320 if name.startswith("ssd") else 128)


def get(name: str, **options: object) -> nn.Module:
    """A model with random weights."""
    build: Callable[..., nn.Module] = torchvision.models.get_model
    return build(name, weights=None, **OPTIONS.get(name, {}), **options)


def images(side: int) -> Tensor:
    """Two random images."""
    return torch.randn(2, 3, side, side)
