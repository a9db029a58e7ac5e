"""Writes tests/fixtures/crowd.json: people who cross, hide, stop and come back, drawn by `scenes --crowd`; the boxes that the
demo's detector finds of them; the tracks that Ultralytics' ByteTrack
makes of those with its own settings; and motmetrics' figures for these tracks.

    scenes --crowd --seed 20263 --clips 6 --out crowd
    vidindex run JOB.toml        with [persons] frames_per_second = 5, confidence = 0.1, without tracks
    pip install ultralytics lapx motmetrics pyarrow
    python tests/it/support/crowd_reference.py crowd/truth.json INDEX >tests/fixtures/crowd.json
"""

import json
import sys
from pathlib import Path

import motmetrics
import numpy as np
import pyarrow.dataset

from tracks_reference import DEFAULTS, tracks

# motmetrics 1.4 is older than NumPy 2, which does not have this any more.
np.asfarray = lambda values: np.asarray(values, dtype=float)

truth_file, index = sys.argv[1:]
columns = ["uri", "time_seconds", "x1", "y1", "x2", "y2", "confidence"]
rows = pyarrow.dataset.dataset(Path(index) / "persons", format="parquet").to_table(columns=columns).to_pylist()

scenes = []
for video in json.loads(Path(truth_file).read_text())["videos"]:
    of_video = [row for row in rows if row["uri"].endswith("/" + video["path"])]
    # The first frame at or after each fifth of a second.
    wanted, frames = 0, []
    for frame in video["frames"]:
        if frame["time_seconds"] >= wanted / 5 - 1e-6:
            frames.append(frame)
            wanted = int(frame["time_seconds"] * 5 + 1e-6) + 1
    shown = []
    for frame in frames:
        boxes = [row for row in of_video if abs(row["time_seconds"] - frame["time_seconds"]) < 1e-3]
        boxes.sort(key=lambda row: -row["confidence"])
        shown.append([[round(row[name], 4) for name in columns[2:]] for row in boxes])
    assert sum(map(len, shown)) == len(of_video), video["path"]
    people = [[[number, *box] for number, box in zip(frame["numbers"], frame["persons"])] for frame in frames]
    scenes.append({"people": people, "boxes": shown, "tracks": tracks(shown, DEFAULTS)})


def as_corner_and_size(boxes):
    boxes = np.asarray(boxes, dtype=float).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def compared(scene):
    accumulator = motmetrics.MOTAccumulator(auto_id=True)
    for people, boxes, numbers in zip(scene["people"], scene["boxes"], scene["tracks"]):
        followed = [(number, box) for number, box in zip(numbers, boxes) if number is not None and box[4] > 0.25]
        distances = motmetrics.distances.iou_matrix(
            as_corner_and_size([person[1:] for person in people]),
            as_corner_and_size([box[:4] for _, box in followed]),
            max_iou=0.5,
        )
        accumulator.update([person[0] for person in people], [number for number, _ in followed], distances)
    return accumulator


accumulators = [compared(scene) for scene in scenes]
summary = motmetrics.metrics.create().compute_many(
    accumulators, metrics=["mota", "idf1"], names=[str(n) for n in range(len(scenes))], generate_overall=True
)
for number, scene in enumerate(scenes):
    scene["mota"], scene["idf1"] = (float(summary.loc[str(number), name]) for name in ("mota", "idf1"))
overall = {name: float(summary.loc["OVERALL", name]) for name in ("mota", "idf1")}
json.dump({"scenes": scenes, "overall": overall}, sys.stdout, separators=(",", ":"))
