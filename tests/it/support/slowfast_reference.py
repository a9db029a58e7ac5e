"""Computes SlowFast networks step by step in NumPy, in double precision: the reference for the graphs of `models build`.

    python slowfast_reference.py NAME FOLDER

draws random weights and clips for the network NAME (slowfast-tiny-4x8-ttoc, ...) and writes to FOLDER:
weights.safetensors, a .bin file (float32) for each input and for the logits, and shapes.json. The option `mmaction2`
selects mmaction2's network, with its parameter names: it has no norm or activation after the lateral convolutions, and
averages over the whole of a larger picture.
"""

import json
import struct
import sys

import checkpoint_forms
import numpy as np

CLASSES, WIDTH, POOL, BLOCKS = 5, 8, 2, (3, 4, 6, 3)
rng = np.random.default_rng(0)
weights = {}


def parameter(name, *shape, spread=1.0, centre=0.0):
    weights[name] = (centre + spread * rng.standard_normal(shape)).astype(np.float32)
    return weights[name].astype(np.float64)


def conv(name, x, channels, kernel, stride=(1, 1, 1), dilation=(1, 1, 1), bias=False):
    """A convolution with a padding of half the kernel, computed one kernel element at a time."""
    fan_in = x.shape[1] * np.prod(kernel)
    w = parameter(f"{name}.weight", channels, x.shape[1], *kernel, spread=fan_in**-0.5)
    pad = [(k // 2) * d for k, d in zip(kernel, dilation)]
    x = np.pad(x, [(0, 0), (0, 0)] + [(p, p) for p in pad])
    size = [(n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(x.shape[2:], kernel, dilation, stride)]
    out = np.zeros((x.shape[0], channels, *size))
    for offset in np.ndindex(*kernel):
        steps = tuple(slice(o * d, o * d + (n - 1) * s + 1, s) for o, d, n, s in zip(offset, dilation, size, stride))
        out += np.einsum("oc,ncthw->nothw", w[(slice(None), slice(None), *offset)], x[(slice(None), slice(None), *steps)])
    return out + parameter(f"{name}.bias", channels).reshape(-1, 1, 1, 1) if bias else out


def norm(name, x):
    gain, shift, mean, deviation = (
        parameter(f"{name}.{leaf}", x.shape[1], spread=0.1, centre=centre).reshape(-1, 1, 1, 1)
        for leaf, centre in [("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)]
    )
    return (x - mean) / np.sqrt(deviation + 1e-5) * gain + shift


def relu(x):
    return np.maximum(x, 0)


def max_pool(x, size, stride, pad):
    x = np.pad(x, [(0, 0)] * 3 + [(pad, pad)] * 2, constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (3, 4))
    return windows[..., ::stride, ::stride, :, :].max((-1, -2))


def bottleneck(name, x, inner, kernel, stride, dilation):
    y = relu(norm(f"{name}.branch2.norm_a", conv(f"{name}.branch2.conv_a", x, inner, (kernel, 1, 1))))
    y = conv(f"{name}.branch2.conv_b", y, inner, (1, 3, 3), (1, stride, stride), (1, dilation, dilation))
    y = relu(norm(f"{name}.branch2.norm_b", y))
    y = norm(f"{name}.branch2.norm_c", conv(f"{name}.branch2.conv_c", y, inner * 4, (1, 1, 1)))
    if x.shape[1] != inner * 4 or stride > 1:
        x = conv(f"{name}.branch1_conv", x, inner * 4, (1, 1, 1), (1, stride, stride))
        x = norm(f"{name}.branch1_norm", x)
    return relu(x + y)


def non_local(name, x, softmax):
    inner, pooled = x.shape[1] // 2, max_pool(x, 2, 2, 0)
    theta, phi, g = (
        conv(f"{name}.conv_{leaf}", of, inner, (1, 1, 1), bias=True)
        for leaf, of in [("theta", x), ("phi", pooled), ("g", pooled)]
    )
    alike = np.einsum("nct,ncp->ntp", theta.reshape(*theta.shape[:2], -1), phi.reshape(*phi.shape[:2], -1))
    if softmax:
        alike = np.exp(alike * inner**-0.5)
        alike /= alike.sum(-1, keepdims=True)
    else:
        alike /= alike.shape[-1]
    seen = np.einsum("ntp,ncp->nct", alike, g.reshape(*g.shape[:2], -1)).reshape(theta.shape)
    return x + norm(f"{name}.norm", conv(f"{name}.conv_out", seen, x.shape[1], (1, 1, 1), bias=True))


def roi_align(x, boxes, side=7, scale=1 / 16):
    """Each of the side x side cells is the mean of bilinear samples, about one per pixel."""
    height, width = x.shape[2:]

    def sample(plane, y, x):
        if y < -1 or y > height or x < -1 or x > width:
            return 0
        y, x = max(y, 0), max(x, 0)
        top, left = min(int(y), height - 1), min(int(x), width - 1)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        fy, fx = (y - top if top < height - 1 else 0), (x - left if left < width - 1 else 0)
        above = plane[:, top, left] * (1 - fx) + plane[:, top, right] * fx
        below = plane[:, bottom, left] * (1 - fx) + plane[:, bottom, right] * fx
        return above * (1 - fy) + below * fy

    out = np.zeros((len(boxes), x.shape[1], side, side))
    for out_box, box in zip(out, boxes.astype(np.float64)):
        plane, (x1, y1, x2, y2) = x[int(box[0])], box[1:] * scale
        cell_h, cell_w = max(y2 - y1, 1) / side, max(x2 - x1, 1) / side
        rows, columns = int(np.ceil(cell_h)), int(np.ceil(cell_w))
        for i, j in np.ndindex(side, side):
            points = [
                sample(plane, y1 + (i + (a + 0.5) / rows) * cell_h, x1 + (j + (b + 0.5) / columns) * cell_w)
                for a, b in np.ndindex(rows, columns)
            ]
            out_box[:, i, j] = sum(points) / len(points)
    return out


def network(name):
    family, _, sampling, *options = name.split("-")
    frames, distance = map(int, sampling.split("x"))
    numbers = {o.rstrip("0123456789"): int(o.lstrip("abcdefghijklmnopqrstuvwxyz")) for o in options if o[-1].isdigit() and o != "mmaction2"}
    alpha = numbers.get("alpha", distance // 2) if family == "slowfast" else 1
    beta, boxes = numbers.get("beta", 8), "ava" in options
    kernel = numbers.get("tconv", 7 if distance == 8 else 5)
    height, width = (64, 96) if boxes else (96, 96) if "mmaction2" in options else (64, 64)
    prefix = "model." if boxes else ""

    fast = rng.standard_normal((2, 3, frames * alpha, height, width)).astype(np.float32)
    slow = fast[:, :, ::alpha]
    inputs = {"slow": slow, "fast": fast} if family == "slowfast" else {family: fast}
    pathways = []
    for index, (pathway, x) in enumerate(inputs.items()):
        x = x.astype(np.float64)
        if pathway == "fast" and "grey" in options:
            x = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
        if pathway == "fast" and "diff" in options:
            x = np.diff(x, axis=2, prepend=x[:, :, :1])
        below = f".multipathway_blocks.{index}" if family == "slowfast" else ""
        channels, time, kernels = (WIDTH, 1, (1, 1, 3, 3)) if pathway == "slow" else (WIDTH // beta, 5, (3, 3, 3, 3))
        stem = f"{prefix}blocks.0{below}"
        x = relu(norm(f"{stem}.norm", conv(f"{stem}.conv", x, channels, (time, 7, 7), (1, 2, 2))))
        pathways.append([pathway, below, channels, kernels, max_pool(x, 3, 2, 1)])
    for stage, blocks in enumerate(BLOCKS):
        if family == "slowfast":
            slow, fast = (pathway[-1] for pathway in pathways)
            if "ttoc" in options:
                lateral = np.concatenate([fast[:, :, frame::alpha] for frame in range(alpha)], 1)
            elif "sample" in options:
                lateral = fast[:, :, ::alpha]
            else:
                fusion = f"{prefix}blocks.{stage}.multipathway_fusion"
                lateral = conv(f"{fusion}.conv_fast_to_slow", fast, 2 * fast.shape[1], (kernel, 1, 1), (alpha, 1, 1))
                if "mmaction2" not in options:
                    lateral = relu(norm(f"{fusion}.norm", lateral))
            pathways[0][-1] = np.concatenate([slow, lateral], 1)
        dilated = boxes and stage == 3
        for number, (pathway, below, channels, kernels, x) in enumerate(pathways):
            for block in range(blocks):
                stride = 2 if block == 0 and stage > 0 and not dilated else 1
                at = f"{prefix}blocks.{stage + 1}{below}"
                time = kernels[stage] if stage != 2 or block < numbers.get("temporal", blocks) else 1
                x = bottleneck(f"{at}.res_blocks.{block}", x, channels << stage, time, stride, 2 if dilated else 1)
                if stage == 2 and block in (1, 3, 5) and number == 0 and {"nl", "nlsoftmax"} & set(options):
                    x = non_local(f"{at}.nonlocal{block}", x, "nlsoftmax" in options)
            pathways[number][-1] = x
    ends = [pathway[-1] for pathway in pathways]
    if boxes:
        inputs["boxes"] = np.array(
            [[0, 3.5, 10.2, 60, 50.7], [1, 50.1, 0, 95.9, 64.3], [1, -20, -20, 120, 90], [0, 20, 20, 20, 20]], np.float32
        )
        pooled = roi_align(np.concatenate([x.mean(2) for x in ends], 1), inputs["boxes"]).max((2, 3))
    elif "mmaction2" in options:
        pooled = np.concatenate([x.mean((2, 3, 4)) for x in ends], 1)
    else:
        windows = [np.lib.stride_tricks.sliding_window_view(x.mean(2), (POOL, POOL), (2, 3)) for x in ends]
        pooled = np.concatenate([w.mean((-1, -2)) for w in windows], 1).mean((2, 3))
    head = "detection_head.proj" if boxes else f"blocks.{6 if family == 'slowfast' else 5}.proj"
    matrix = parameter(f"{head}.weight", CLASSES, pooled.shape[1])
    return inputs, pooled @ matrix.T + parameter(f"{head}.bias", CLASSES)


def write(folder, tensors):
    header, data = {}, b""
    for name, values in (checkpoint_forms.mmaction2(weights) if "mmaction2" in sys.argv[1] else weights).items():
        raw = values.tobytes()
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    header = json.dumps(header).encode()
    with open(f"{folder}/weights.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header + data)
    for name, values in tensors.items():
        values.astype("<f4").tofile(f"{folder}/{name}.bin")
    with open(f"{folder}/shapes.json", "w") as file:
        json.dump({name: values.shape for name, values in tensors.items()}, file)


if __name__ == "__main__":
    inputs, logits = network(sys.argv[1])
    write(sys.argv[2], {**inputs, "logits": logits})
