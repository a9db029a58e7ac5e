"""Trains the demo's YOLOv5 on frames of drawn clips.

    python train_persons.py DATA OUT.pt --minutes 30

DATA holds train/ and val/, each written by the command `scenes`. Prints the share of validation persons found (IoU at
least 0.5, score above 0.25), and of findings that are persons.
"""

import argparse
import time

import numpy as np
import torch

import yolov5
from clips import frames, read_all, scaled

SIDE, SMALL_SIDE, GREY = 320, 192, 114
EVERY_SECONDS = 0.4


def pictures(path, video):
    """Some frames, each with its visible persons and those too occluded for training, as corners in pixels of the picture."""
    out, next_time = [], 0.0
    for picture, frame in zip(frames(path), video["frames"]):
        if frame["time_seconds"] >= next_time:
            next_time += EVERY_SECONDS
            scale = SIDE / max(picture.shape[:2])
            small = scaled(picture, *(round(size * scale) for size in picture.shape[:2]))
            boxes = np.array(frame["persons"], np.float32).reshape(-1, 4) * scale
            out.append((small, boxes))
    return out


def letterboxed(small):
    square = np.full((SIDE, SIDE, 3), GREY, np.uint8)
    top, left = ((SIDE - size) // 2 for size in small.shape[:2])
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    return square, np.array([left, top, left, top], np.float32)


def batch(chosen, rng):
    """Augmented by mirroring, scaling, moving and lighting: `[batch, 3, SIDE, SIDE]`, and `[n, 5]` index, centre and size."""
    squares, matrices, targets = [], [], []
    for number, (small, boxes) in enumerate(chosen):
        square, offset = letterboxed(small)
        boxes = boxes + offset
        zoom = rng.uniform(0.75, 1.35)
        mirror = rng.choice([-1.0, 1.0])
        move = rng.uniform(-0.15, 0.15, 2) * SIDE
        middle = SIDE / 2
        # Maps the old to the new picture: x' = zoom * mirror * (x - middle) + middle + move.
        corners = boxes.reshape(-1, 2, 2)
        corners = (corners - middle) * np.array([zoom * mirror, zoom]) + middle + move
        low, high = corners.min(1), corners.max(1)
        clipped_low, clipped_high = low.clip(0, SIDE), high.clip(0, SIDE)
        left = (clipped_high - clipped_low).prod(1) / (high - low).prod(1).clip(1e-6)
        size = clipped_high - clipped_low
        kept = (left > 0.3) & (size.min(1) > 3)
        centre = (clipped_low + clipped_high) / 2
        targets.append(np.concatenate([np.full((kept.sum(), 1), number), centre[kept], size[kept]], 1))
        # In the grid's coordinates, -1 to 1, from the new picture to the old.
        away = move / middle
        matrices.append([[mirror / zoom, 0, -mirror * away[0] / zoom], [0, 1 / zoom, -away[1] / zoom]])
        squares.append(square)
    images = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() - GREY
    grid = torch.nn.functional.affine_grid(torch.tensor(np.array(matrices)).float(), images.shape, align_corners=False)
    images = torch.nn.functional.grid_sample(images, grid, align_corners=False) + GREY
    light = torch.from_numpy(rng.uniform(0.8, 1.2, (len(chosen), 1, 1, 1)).astype(np.float32))
    images = (images * light / 255).clamp(0, 1)
    return images.contiguous(memory_format=torch.channels_last), torch.from_numpy(np.concatenate(targets)).float()


def iou(a, b):
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = (high - low).clamp(0).prod(2)
    area = lambda box: (box[:, 2:] - box[:, :2]).prod(1)
    return inter / (area(a)[:, None] + area(b)[None] - inter)


@torch.no_grad()
def validate(model, held_out):
    model.eval()
    persons = found = findings = 0
    for small, boxes in held_out:
        square, offset = letterboxed(small)
        image = torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255
        detected = yolov5.decode(model(image), model.model[24].anchors)
        detected = detected[detected[:, 4] > 0.25]
        detected = detected[detected[:, 4].argsort(descending=True)]
        kept = []
        while len(detected):
            kept.append(detected[0, :4])
            detected = detected[1:][iou(detected[:1, :4], detected[1:, :4])[0] <= 0.45]
        persons, findings = persons + len(boxes), findings + len(kept)
        if kept and len(boxes):
            table = iou(torch.stack(kept), torch.from_numpy(boxes + offset))
            found += (table.amax(0) >= 0.5).sum().item()
    model.train()
    return f"recall {found / persons:.3f} of {persons}, precision about {found / max(findings, 1):.3f}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("out")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate at its highest")
    parser.add_argument("--start", help="a checkpoint to go on from")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    known, held_out = (
        [picture for of_clip in read_all(f"{arguments.data}/{part}", pictures) for picture in of_clip]
        for part in ("train", "val")
    )
    held_out = held_out[::3]
    print(len(known), "pictures", flush=True)

    model = yolov5.Yolov5(1, 0.125).to(memory_format=torch.channels_last)
    if arguments.start:
        model.load_state_dict(torch.load(arguments.start))
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
    )

    def draw(count):
        return batch([known[index] for index in rng.integers(len(known), size=count)], rng)

    def finished():
        """The averaged weights, with batch norm statistics that are measured for them."""
        torch.optim.swa_utils.update_bn([draw(32)[0] for _ in range(16)], average.module)
        torch.save(average.module.state_dict(), arguments.out)
        return validate(average.module, held_out)

    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    begin, step, told, losses = time.monotonic(), 0, 0, []
    while (done := (time.monotonic() - begin) / 60 / arguments.minutes) < 1:
        rate = arguments.rate * min(done / 0.05, 0.5 + 0.5 * np.cos(np.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = max(rate, 1e-6)
        images, boxes = draw(arguments.batch)
        if done < 0.5:
            # Coarse features are learnt faster from fewer pixels (arXiv 1912.00998).
            images = torch.nn.functional.interpolate(images, (SMALL_SIDE, SMALL_SIDE), mode="bilinear", antialias=True)
            boxes[:, 1:] *= SMALL_SIDE / SIDE
        with torch.autocast("cpu", torch.bfloat16):
            raw = model(images)
        loss = yolov5.loss(raw, boxes, model.model[24].anchors)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(model)
        step += 1
        losses.append(loss.item())
        if done - told >= 0.1:
            told = done
            print(f"{done:4.0%} step {step} loss {np.mean(losses):.4f} {finished()}", flush=True)
            losses = []
    print(f"{step} steps of {arguments.batch}: {finished()}")


if __name__ == "__main__":
    main()
