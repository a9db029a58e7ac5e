"""Writes tests/fixtures/metrics.json: random scores, answers and boxes, and what scikit-learn and pycocotools compute of
them.

    pip install scikit-learn pycocotools && python tests/it/support/metrics_reference.py >tests/fixtures/metrics.json
"""

import contextlib
import io
import json
import sys

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import average_precision_score, balanced_accuracy_score

rng = np.random.default_rng(20_261)


def scores():
    """Few different scores, so that many are equal."""
    count = int(rng.integers(2, 60))
    own = rng.random(count) < rng.uniform(0.1, 0.9)
    own[int(rng.integers(count))] = True
    values = np.round(rng.random(count) + 0.3 * own, int(rng.integers(1, 4)))
    return {
        "items": [[float(value), bool(is_own)] for value, is_own in zip(values, own)],
        "average_precision": float(average_precision_score(own, values)),
    }


def answers():
    count, classes = int(rng.integers(5, 80)), int(rng.integers(2, 6))
    truth = rng.integers(classes, size=count)
    # Predictions of a class without items would warn.
    predicted = np.where(rng.random(count) < 0.6, truth, rng.permutation(truth))
    return {
        "answers": [[f"c{a}", f"c{b}"] for a, b in zip(truth, predicted)],
        "mean_class_accuracy": float(balanced_accuracy_score(truth, predicted)),
    }


def random_box():
    x, y = rng.uniform(0, 80, 2)
    width, height = rng.uniform(5, 40, 2)
    return [float(v) for v in np.round([x, y, x + width, y + height], 2)]


def as_coco(box):
    x1, y1, x2, y2 = box
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "category_id": 1}


def images():
    drawn = []
    for _ in range(int(rng.integers(2, 8))):
        truth = [random_box() for _ in range(int(rng.integers(0, 5)))]
        ignored = [random_box() for _ in range(int(rng.integers(0, 2)))]
        near = [list(np.round(np.array(box) + rng.normal(0, 3, 4), 2)) for box in truth + ignored if rng.random() < 0.8]
        found = near + [random_box() for _ in range(int(rng.integers(0, 4)))]
        found = [[float(v) for v in box] for box in found if box[2] > box[0] and box[3] > box[1]]
        drawn.append({"truth": truth, "ignored": ignored, "found": [[box, float(rng.random())] for box in found]})
    drawn[0]["truth"].append(random_box())
    drawn[0]["found"].append([random_box(), 0.5])
    return with_ap50(drawn)


def with_ap50(drawn):
    evaluation = coco_evaluation(drawn)
    evaluation.summarize()
    # As in Pascal VOC and AVA, which have no ignored boxes: the precision at very many recalls is the area below the curve.
    area = coco_evaluation([image | {"ignored": []} for image in drawn], np.linspace(0, 1, 1_000_001))
    return {
        "images": drawn,
        "ap50": float(evaluation.stats[1]),
        "ap": float(evaluation.stats[0]),
        "area50": float(np.mean(area.eval["precision"][0, :, 0, 0, 0])),
    }


def coco_evaluation(drawn, recalls=None):
    annotations, detections = [], []
    for number, image in enumerate(drawn, 1):
        here = {"image_id": number}
        for name, is_crowd in (("truth", 0), ("ignored", 1)):
            annotations += [as_coco(box) | here | {"iscrowd": is_crowd} for box in image[name]]
        detections += [as_coco(box) | here | {"score": score} for box, score in image["found"]]
    for number, annotation in enumerate(annotations):
        annotation["id"] = number + 1
    expected = COCO()
    expected.dataset = {
        "images": [{"id": number} for number in range(1, len(drawn) + 1)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }
    expected.createIndex()
    evaluation = COCOeval(expected, expected.loadRes(detections), "bbox")
    if recalls is not None:
        evaluation.params.recThrs = recalls
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
        evaluation.params.maxDets = [100]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def some_of(count, found):
    """An image of which some boxes are found, and nothing else: the recall is a round number."""
    truth = [[20 * i, 0, 20 * i + 10, 10] for i in range(count)]
    return with_ap50([{"truth": truth, "ignored": [], "found": [[box, 0.9 - 0.01 * i] for i, box in enumerate(truth[:found])]}])


with contextlib.redirect_stdout(io.StringIO()):
    cases = {
        "scores": [scores() for _ in range(30)],
        "answers": [answers() for _ in range(10)],
        "boxes": [images() for _ in range(30)] + [some_of(10, 7), some_of(20, 7), some_of(100, 57)],
    }
json.dump(cases, sys.stdout)
sys.stdout.write("\n")
