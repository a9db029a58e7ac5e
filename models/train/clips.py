"""Reads drawn clips and their ground truth. Frames are decoded with PyAV and scaled like vidindex's references."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import torch

LABELS = (Path(__file__).parent / "actions.txt").read_text().split()
# The action that results from mirroring.
MIRRORED = [LABELS.index({"walk_left": "walk_right", "walk_right": "walk_left"}.get(name, name)) for name in LABELS]


def truth(folder):
    return json.loads((Path(folder) / "truth.json").read_text())["videos"]


def frames(path):
    """Every frame as displayed, `[height, width, 3]`, in presentation order."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        for frame in container.decode(video=0):
            picture = frame.to_ndarray(format="rgb24")
            yield np.ascontiguousarray(np.rot90(picture, frame.rotation // 90)) if frame.rotation else picture


def scaled(picture, height, width):
    """Plain bilinear interpolation: half-pixel centres, no antialiasing. `[height, width, 3]` in and out, uint8."""
    planes = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    planes = torch.nn.functional.interpolate(planes, (height, width), mode="bilinear", align_corners=False)
    return planes[0].permute(1, 2, 0).round().byte().numpy()


def short_side(picture, side, width_max):
    """Scales the short side to `side`, and keeps at most `width_max` at the centre of the long side."""
    height, width = picture.shape[:2]
    scale = side / min(height, width)
    picture = scaled(picture, max(side, int(height * scale)), max(side, int(width * scale)))
    for axis in (0, 1):
        over = picture.shape[axis] - width_max
        if over > 0:
            picture = np.take(picture, range(over // 2, over // 2 + width_max), axis)
    return picture


def read_all(folder, read):
    """Calls `read(path, video)` for every clip, two at a time."""
    videos = truth(folder)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda video: read(Path(folder) / video["path"], video), videos))
