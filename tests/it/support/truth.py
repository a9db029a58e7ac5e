"""Compares an index of drawn clips with their ground truth, and prints the results as JSON.

    python truth.py TRUTH.json INDEX STRIDE_SECONDS FRAMES_PER_SECOND

The results, for each kind of file and for all files, include:

- `ap50`: the average precision at an IoU of 0.5, computed by pycocotools
- `offset_pixels`: the mean offset of the edges of detected boxes from the true ones, `[left, top, right, bottom]`
- `top1`: the share of segments whose top label is the true action, among those of which one action fills two thirds
- `boundaries`: the share of the transitions between actions that are found within a stride
- `late_seconds`: the mean delay of these transitions
"""

import contextlib
import io
import json
import sys

import duckdb
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

NEAR_SECONDS = 1e-3


def rows(index, table):
    sql = f"SELECT * FROM read_parquet('{index}/{table}/**/*.parquet', hive_partitioning = true)"
    found = {}
    cursor = duckdb.connect().execute(sql)
    names = [column[0] for column in cursor.description]
    for row in cursor.fetchall():
        row = dict(zip(names, row))
        found.setdefault("/".join(row["uri"].split("/")[-2:]), []).append(row)
    return found


def sampled_frames(video, per_second):
    """For each interval of 1/per_second seconds, the first frame at or after its start."""
    due = 0
    for frame in video["frames"]:
        if frame["time_seconds"] * per_second >= due - NEAR_SECONDS:
            yield frame
            due = int(frame["time_seconds"] * per_second + NEAR_SECONDS) + 1


def as_coco(box):
    x1, y1, x2, y2 = box
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "category_id": 1}


def persons(videos, found, per_second):
    """The average precision, and the mean offset of the edges of detected boxes."""
    images, truths, detections, offsets = [], [], [], []
    for video in videos:
        boxes = found.get(video["path"], [])
        times = np.array([box["time_seconds"] for box in boxes])
        for frame in sampled_frames(video, per_second):
            images.append({"id": len(images) + 1})
            here = {"image_id": len(images)}
            for name, ignored in (("persons", 0), ("hidden", 1)):
                truths += [as_coco(box) | here | {"iscrowd": ignored} for box in frame[name]]
            at = [boxes[i] for i in np.flatnonzero(abs(times - frame["time_seconds"]) < NEAR_SECONDS)]
            at = [([box[edge] for edge in ("x1", "y1", "x2", "y2")], box["confidence"]) for box in at]
            detections += [as_coco(corners) | here | {"score": score} for corners, score in at]
            for corners, _ in at:
                offsets_here = [np.subtract(corners, own) for own in frame["persons"]]
                nearest = min(offsets_here, key=lambda edges: abs(edges).max(), default=None)
                # Only if the counts agree and a true box is near, so that both are boxes of the same person.
                if nearest is not None and abs(nearest).max() < 12 and len(at) == len(frame["persons"]):
                    offsets.append(nearest)
    for number, truth in enumerate(truths):
        truth["id"] = number + 1
    expected = COCO()
    expected.dataset = {"images": images, "annotations": truths, "categories": [{"id": 1, "name": "person"}]}
    with contextlib.redirect_stdout(io.StringIO()):
        expected.createIndex()
        evaluation = COCOeval(expected, expected.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {
        "persons": sum(not truth["iscrowd"] for truth in truths),
        "ap50": float(evaluation.stats[1]),
        "ap": float(evaluation.stats[0]),
        "offset_pixels": [round(float(edge), 3) for edge in np.mean(offsets, 0)],
    }


def actions(videos, found, stride):
    hits = clear = boundaries = near = 0
    late = []
    confused = {}
    for video in videos:
        acts = video["actions"]
        segments = sorted(found.get(video["path"], []), key=lambda segment: segment["start_seconds"])
        for segment in segments:
            begin, end = segment["start_seconds"], min(segment["end_seconds"], acts[-1]["end_seconds"])
            fill = lambda act: min(end, act["end_seconds"]) - max(begin, act["start_seconds"])
            most = max(acts, key=fill)
            if fill(most) >= 2 / 3 * (end - begin):
                clear += 1
                hits += most["label"] == segment["top_label"]
                if most["label"] != segment["top_label"]:
                    pair = f"{most['label']} as {segment['top_label']}"
                    confused[pair] = confused.get(pair, 0) + 1
        # A transition is found midway between the middles of two segments with different labels.
        middles = [(segment["start_seconds"] + segment["end_seconds"]) / 2 for segment in segments]
        changes = [
            ((middles[i] + middles[i + 1]) / 2, segments[i + 1]["top_label"])
            for i in range(len(segments) - 1)
            if segments[i]["top_label"] != segments[i + 1]["top_label"]
        ]
        for act in acts[1:]:
            boundaries += 1
            delays = [time - act["start_seconds"] for time, label in changes if label == act["label"]]
            nearest = min(delays, key=abs, default=np.inf)
            if abs(nearest) <= stride:
                near += 1
                late.append(nearest)
    return {
        "segments": clear,
        "top1": hits / clear,
        "changes": boundaries,
        "boundaries": near / boundaries,
        "late_seconds": float(np.mean(late)) if late else None,
        "confused": dict(sorted(confused.items(), key=lambda item: -item[1])[:5]),
    }


def main():
    truth, index = sys.argv[1:3]
    stride, per_second = map(float, sys.argv[3:])
    with open(truth) as file:
        videos = json.load(file)["videos"]
    boxes, segments = rows(index, "persons"), rows(index, "actions")
    kinds = {}
    for row in (row for of_video in rows(index, "videos").values() for row in of_video):
        path = "/".join(row["uri"].split("/")[-2:])
        video = next(video for video in videos if video["path"] == path)
        times = [frame["time_seconds"] for frame in video["frames"]]
        pace = "variable" if len(set(np.diff(times).round(3))) > 2 else "constant"
        container = path.rsplit(".", 1)[-1]
        kind = f"{container} {row['codec']} rotated {row['rotation']} {pace} {row['width']}x{row['height']}"
        kinds.setdefault(kind, []).append(video)
    report = {
        kind: persons(of_kind, boxes, per_second) | actions(of_kind, segments, stride)
        for kind, of_kind in sorted(kinds.items())
    }
    report["all"] = persons(videos, boxes, per_second) | actions(videos, segments, stride)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
