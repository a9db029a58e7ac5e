"""What the job of `cargo bench --bench precision` is in Python: PyAV decodes, PyTorch computes, pyarrow writes.

    python peer_pytorch.py THREADS OUT.parquet VIDEO...

SlowFast-R50 8x8 (PyTorchVideo's) sees every 64/30 seconds of video, YOLOv5n one frame a second. Both have random weights,
which take the same time as trained ones. Prints the number of clips and images as JSON.
"""

import json
import sys

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pytorchvideo.models.slowfast import create_slowfast
from torch import nn
from torch.nn import functional as F

CLIP_SECONDS = 64 / 30
ANCHORS = torch.tensor(
    [
        [[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]],
        [[30.0, 61.0], [62.0, 45.0], [59.0, 119.0]],
        [[116.0, 90.0], [156.0, 198.0], [373.0, 326.0]],
    ]
)


def conv(inputs, outputs, kernel=1, stride=1, padding=None):
    """A convolution with its batch norm folded, as in a model that is ready for inference."""
    padding = kernel // 2 if padding is None else padding
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.SiLU(inplace=True))


class Bottleneck(nn.Module):
    def __init__(self, channels, shortcut):
        super().__init__()
        self.layers = nn.Sequential(conv(channels, channels), conv(channels, channels, 3))
        self.shortcut = shortcut

    def forward(self, x):
        return x + self.layers(x) if self.shortcut else self.layers(x)


class C3(nn.Module):
    def __init__(self, inputs, outputs, count, shortcut=True):
        super().__init__()
        half = outputs // 2
        self.left = nn.Sequential(conv(inputs, half), *(Bottleneck(half, shortcut) for _ in range(count)))
        self.right = conv(inputs, half)
        self.join = conv(outputs, outputs)

    def forward(self, x):
        return self.join(torch.cat([self.left(x), self.right(x)], 1))


class Pyramid(nn.Module):
    """Maxima over windows of 5, 9 and 13 pixels."""

    def __init__(self, channels):
        super().__init__()
        self.first, self.last = conv(channels, channels // 2), conv(channels * 2, channels)

    def forward(self, x):
        maps = [self.first(x)]
        for _ in range(3):
            maps.append(F.max_pool2d(maps[-1], 5, 1, 2))
        return self.last(torch.cat(maps, 1))


class Yolov5n(nn.Module):
    def __init__(self, classes=80):
        super().__init__()
        self.fine = nn.Sequential(
            conv(3, 16, 6, 2, 2), conv(16, 32, 3, 2), C3(32, 32, 1), conv(32, 64, 3, 2), C3(64, 64, 2)
        )
        self.middle = nn.Sequential(conv(64, 128, 3, 2), C3(128, 128, 3))
        self.coarse = nn.Sequential(conv(128, 256, 3, 2), C3(256, 256, 1), Pyramid(256), conv(256, 128))
        self.up_middle = nn.Sequential(C3(256, 128, 1, False), conv(128, 64))
        self.up_fine = C3(128, 64, 1, False)
        self.down_middle, self.join_middle = conv(64, 64, 3, 2), C3(128, 128, 1, False)
        self.down_coarse, self.join_coarse = conv(128, 128, 3, 2), C3(256, 256, 1, False)
        self.heads = nn.ModuleList(nn.Conv2d(channels, 3 * (5 + classes), 1) for channels in (64, 128, 256))

    def forward(self, x):
        fine = self.fine(x)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = self.up_middle(torch.cat([F.interpolate(coarse, scale_factor=2.0), middle], 1))
        fine = self.up_fine(torch.cat([F.interpolate(middle, scale_factor=2.0), fine], 1))
        second = self.join_middle(torch.cat([self.down_middle(fine), middle], 1))
        third = self.join_coarse(torch.cat([self.down_coarse(second), coarse], 1))
        rows = []
        for head, anchors, found in zip(self.heads, ANCHORS, (fine, second, third)):
            raw = head(found)
            height, width = raw.shape[-2:]
            raw = raw.view(1, 3, -1, height, width).permute(0, 1, 3, 4, 2).sigmoid()
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            centre = (raw[..., :2] * 2 - 0.5 + torch.stack([x, y], -1)) * (640 / width)
            size = (raw[..., 2:4] * 2) ** 2 * anchors.view(1, 3, 1, 1, 2)
            rows.append(torch.cat([centre, size, raw[..., 4:]], -1).flatten(1, 3))
        return torch.cat(rows, 1)


def clip_of(frames):
    chosen = torch.linspace(0, len(frames) - 1, 32).long()
    clip = torch.from_numpy(np.stack([frames[number] for number in chosen])).permute(3, 0, 1, 2).float()
    clip = (clip / 255 - 0.45) / 0.225
    height, width = clip.shape[-2:]
    scale = 256 / min(height, width)
    clip = F.interpolate(clip, size=(max(256, int(height * scale)), max(256, int(width * scale))), mode="bilinear")
    top, left = (clip.shape[-2] - 256) // 2, (clip.shape[-1] - 256) // 2
    fast = clip[None, :, :, top : top + 256, left : left + 256]
    return [fast[:, :, torch.linspace(0, 31, 8).long()], fast]


def letterbox(frame):
    image = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
    scale = 640 / max(image.shape[-2:])
    height, width = round(image.shape[-2] * scale), round(image.shape[-1] * scale)
    image = F.interpolate(image, size=(height, width), mode="bilinear")
    top, left = (640 - height) // 2, (640 - width) // 2
    return F.pad(image, (left, 640 - width - left, top, 640 - height - top), value=114 / 255)


def main():
    threads, out, videos = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    torch.set_num_threads(threads)
    slowfast = create_slowfast(model_depth=50).eval()
    yolo = torch.jit.trace(Yolov5n().eval(), torch.zeros(1, 3, 640, 640))
    rows, images = [], 0
    for path in videos:
        frames, due = [], 0.0
        segment = 0
        with av.open(path) as container:
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(video=0):
                time = float(frame.time)
                if frames and time >= (segment + 1) * CLIP_SECONDS:
                    top = slowfast(clip_of(frames)).softmax(-1)[0].topk(10)
                    rows.append((path, segment, top.indices.tolist(), top.values.tolist()))
                    frames, segment = [], segment + 1
                frames.append(frame.to_ndarray(format="rgb24"))
                if time >= due:
                    boxes = yolo(letterbox(frames[-1]))[0]
                    boxes[(boxes[:, 4:5] * boxes[:, 5:]).amax(1) > 0.25].numpy()
                    images, due = images + 1, due + 1.0
        if frames:
            top = slowfast(clip_of(frames)).softmax(-1)[0].topk(10)
            rows.append((path, segment, top.indices.tolist(), top.values.tolist()))
    pq.write_table(pa.table(list(zip(*rows)), names=["uri", "segment", "labels", "scores"]), out)
    print(json.dumps({"clips": len(rows), "images": images}))


with torch.inference_mode():
    main()
