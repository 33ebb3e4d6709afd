"""Run a compressed network with ONNX Runtime alone: neither torch nor vibfx is needed.

    pip install onnxruntime pillow
    python run_onnx.py model.onnx picture.png

The file itself says how pixels are normalized and what the classes are called.
"""

import json
import sys

import numpy as np
import onnxruntime


def load(path: str) -> tuple[onnxruntime.InferenceSession, dict]:
    """The network, and what its file says of itself."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    texts = session.get_modelmeta().custom_metadata_map
    names = ("size", "mean", "std", "classes")
    return session, {n: json.loads(texts[f"vibfx.{n}"]) for n in names if f"vibfx.{n}" in texts}


def prepare(picture, facts: dict) -> np.ndarray:
    """A PIL image as the network takes it: float32 ``(1, C, H, W)``."""
    channels, height, width = facts["size"][0]
    picture = picture.convert("L" if channels == 1 else "RGB").resize((width, height))
    pixels = np.asarray(picture, dtype=np.float32).reshape(height, width, channels) / 255
    if "mean" in facts:
        pixels = (pixels - np.float32(facts["mean"])) / np.float32(facts["std"])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)


def main(model: str, file: str) -> None:
    """Print the three likeliest classes of a picture."""
    from PIL import Image

    session, facts = load(model)
    (scores,) = session.run(None, {"input": prepare(Image.open(file), facts)})
    shares = np.exp(scores[0] - scores[0].max())
    shares /= shares.sum()
    for number in shares.argsort()[::-1][:3]:
        print(f"{shares[number]:7.2%}  {facts['classes'][number]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
