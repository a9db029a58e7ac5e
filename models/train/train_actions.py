"""Trains the demo's SlowFast on drawn clips.

    python train_actions.py DATA OUT.pyth --minutes 30

DATA holds train/ and val/, each written by the command `scenes`. Prints the share of validation segments whose most
likely label is that of the action which fills most of the segment.
"""

import argparse
import time

import numpy as np
import torch
from torch import nn

from clips import LABELS, MIRRORED, frames, read_all, short_side
from slowfast import SlowFast

SIDE, FRAMES, SAMPLING_RATE, ALPHA = 96, 8, 4, 4
CLIP_SECONDS = FRAMES * SAMPLING_RATE / 30
STRIDE_SECONDS = 0.5
# Maximum distance of a crop from the centre, pixels.
SHIFT = 10
MEAN, SPREAD = 0.45, 0.225


class Clip:
    """A video's scaled frames, their times, and its actions over time."""

    def __init__(self, path, video):
        self.frames = np.stack([short_side(picture, SIDE, SIDE + 2 * SHIFT) for picture in frames(path)])
        self.times = np.array([frame["time_seconds"] for frame in video["frames"]])
        assert len(self.times) == len(self.frames), path
        self.acts = [(LABELS.index(act["label"]), act["start_seconds"], act["end_seconds"]) for act in video["actions"]]
        self.seconds = self.acts[-1][2]

    def segment(self, start, shift=(0, 0)):
        """The frames `[FRAMES, SIDE, SIDE, 3]` of a segment, and the share of it that each action fills."""
        inside = np.flatnonzero((self.times >= start - 1e-6) & (self.times < start + CLIP_SECONDS - 1e-6))
        chosen = inside[np.linspace(0, len(inside) - 1, FRAMES).astype(int)]
        top, left = ((size - SIDE) // 2 for size in self.frames.shape[1:3])
        top, left = (
            int(np.clip(at + off, 0, size - SIDE))
            for at, off, size in zip((top, left), shift, self.frames.shape[1:3])
        )
        shares = np.zeros(len(LABELS), np.float32)
        for label, begin, end in self.acts:
            shares[label] += max(0, min(end, start + CLIP_SECONDS) - max(begin, start))
        return self.frames[chosen, top : top + SIDE, left : left + SIDE], shares / shares.sum()


def draw(clips, by_label, rng):
    """A segment at a random time or within an action. Rare actions are drawn as often as others."""
    if rng.random() < 0.5:
        clip = clips[rng.integers(len(clips))]
        start = rng.uniform(0, clip.seconds - 0.3 * CLIP_SECONDS)
    else:
        of_label = by_label[rng.integers(len(LABELS))]
        clip, begin, end = of_label[rng.integers(len(of_label))]
        start = rng.uniform(begin, end) - CLIP_SECONDS / 2
        start = float(np.clip(start, 0, clip.seconds - 0.3 * CLIP_SECONDS))
    pixels, shares = clip.segment(start, rng.integers(-SHIFT, SHIFT + 1, 2))
    if rng.random() < 0.5:
        pixels, shares = pixels[:, :, ::-1], shares[MIRRORED]
    return pixels, shares


def batch(segments, rng=None):
    pixels = torch.from_numpy(np.stack([pixels for pixels, _ in segments])).permute(0, 4, 1, 2, 3).float() / 255
    if rng is not None:
        light = torch.from_numpy(rng.uniform(0.8, 1.2, (len(segments), 1, 1, 1, 1)).astype(np.float32))
        pixels = (pixels * light).clamp(0, 1)
    pixels = (pixels - MEAN) / SPREAD
    shares = torch.from_numpy(np.stack([shares for _, shares in segments]))
    return pixels.contiguous(memory_format=torch.channels_last_3d), shares


@torch.no_grad()
def validate(model, clips):
    model.eval()
    hits, clear_hits, clear, total = 0, 0, 0, 0
    wrong = {}
    for clip in clips:
        starts = np.arange(0, clip.seconds - 1e-6, STRIDE_SECONDS)
        pixels, shares = batch([clip.segment(start) for start in starts if (clip.times >= start).any()])
        with torch.autocast("cpu", torch.bfloat16):
            guess = model(pixels).argmax(1)
        right = guess == shares.argmax(1)
        is_clear = shares.max(1).values >= 2 / 3
        for is_right, was, said in zip(right, shares.argmax(1), guess):
            if not is_right:
                pair = f"{LABELS[was]}>{LABELS[said]}"
                wrong[pair] = wrong.get(pair, 0) + 1
        hits, total = hits + right.sum().item(), total + len(right)
        clear_hits, clear = clear_hits + (right & is_clear).sum().item(), clear + is_clear.sum().item()
    model.train()
    worst = sorted(wrong.items(), key=lambda item: -item[1])[:6]
    return f"top-1 {hits / total:.3f} of {total}; where one action fills 2/3: {clear_hits / clear:.3f} of {clear}; {worst}"


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
    clips, held_out = (read_all(f"{arguments.data}/{part}", Clip) for part in ("train", "val"))
    by_label = [
        [(clip, begin, end) for clip in clips for own, begin, end in clip.acts if own == label]
        for label in range(len(LABELS))
    ]
    print(len(clips), "clips;", {name: len(acts) for name, acts in zip(LABELS, by_label)}, flush=True)

    model = SlowFast(len(LABELS), width=16, beta=4, alpha=ALPHA, pool=2).to(memory_format=torch.channels_last_3d)
    if arguments.start:
        model.load_state_dict(torch.load(arguments.start)["model_state"])
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
    )

    def finished():
        """The averaged weights, with batch norm statistics that are measured for them."""
        some = [batch([draw(clips, by_label, rng) for _ in range(32)], rng)[0] for _ in range(16)]
        torch.optim.swa_utils.update_bn(some, average.module)
        torch.save({"model_state": average.module.state_dict()}, arguments.out)
        return validate(average.module, held_out)

    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    begin, step, told, losses = time.monotonic(), 0, 0, []
    while (done := (time.monotonic() - begin) / 60 / arguments.minutes) < 1:
        # Linear warm-up over the first twentieth, then cosine decay to zero.
        rate = arguments.rate * min(done / 0.05, 0.5 + 0.5 * np.cos(np.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = max(rate, 1e-6)
        pixels, shares = batch([draw(clips, by_label, rng) for _ in range(arguments.batch)], rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(pixels)
        loss = nn.functional.cross_entropy(logits.float(), shares)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(model)
        step += 1
        losses.append(loss.item())
        if done - told >= 0.1:
            told = done
            print(f"{done:4.0%} step {step} loss {np.mean(losses):.3f} {finished()}", flush=True)
            losses = []
    print(f"{step} steps of {arguments.batch}: {finished()}")


if __name__ == "__main__":
    main()
