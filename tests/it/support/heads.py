"""Builds small detectors with the heads, shapes and metadata of the official exporters, and computes what the official
predictors return for a picture. The networks run in ONNX's reference evaluator.

    heads.py PICTURE.ppm FOLDER < cases.json

Writes FOLDER/NAME.onnx for each case, and prints {NAME: [[x1, y1, x2, y2, confidence, class], ...]}.

Sources of the arithmetic: ultralytics/yolov5 (models/yolo.py Detect, utils/general.py non_max_suppression and scale_boxes),
ultralytics/ultralytics (nn/modules/head.py Detect, v10Detect; utils/nms.py, utils/ops.py scale_boxes).
"""

import json
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

ANCHORS = np.array([[[10, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]], [[116, 90], [156, 198], [180, 130]],
                    [[200, 180], [230, 240], [250, 200]]], np.float32)
BINS = 16


class GatherElements(OpRun):
    """Replaces the operator of the evaluator, which is limited to 64 rows."""

    op_domain = ""

    def _run(self, data, indices, axis=0):
        return (np.take_along_axis(data, indices, axis),)


class Graph:
    def __init__(self, seed):
        self.nodes, self.weights, self.random = [], [], np.random.default_rng(seed)

    def const(self, array, dtype=np.float32):
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def op(self, kind, *inputs, outputs=1, **attributes):
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names if outputs > 1 else names[0]

    def head(self, images, stride, channels):
        """Pools the picture to the grid's cells, and applies a convolution over a cell and its neighbours."""
        cells = self.op("AveragePool", images, kernel_shape=[stride, stride], strides=[stride, stride])
        weight = self.random.normal(0, 0.8, (channels, 3, 3, 3))
        # The weights sum to zero, so that uniform areas (such as the grey bars) give only the bias.
        weight -= weight.mean((1, 2, 3), keepdims=True)
        bias = self.random.normal(0, 0.5, channels)
        return self.op("Conv", cells, self.const(weight), self.const(bias), pads=[1, 1, 1, 1])

    def model(self, images, output, dims, metadata, half):
        inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, images)]
        self.nodes.append(helper.make_node("Identity", [output], ["output0"]))
        outputs = [helper.make_tensor_value_info("output0", TensorProto.FLOAT, dims)]
        graph = helper.make_graph(self.nodes, "main_graph", inputs, outputs, self.weights)
        model = helper.make_model(graph, producer_name="pytorch", opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        if half:
            model = halved(model)
        for key, value in metadata.items():
            entry = model.metadata_props.add()
            entry.key, entry.value = key, str(value)
        onnx.checker.check_model(model, full_check=True)
        return model


def halved(model):
    """Converts inputs, weights and outputs to float16, like an export with `half=True`."""
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for info in [*graph.input, *graph.output]:
        info.type.tensor_type.elem_type = TensorProto.FLOAT16
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    return model


def grid(height, width, offset):
    y, x = np.mgrid[:height, :width].astype(np.float32) + offset
    return np.stack([x, y], -1)


def yolov5(graph, classes, strides, height, width):
    """[batch, 3 x cells, 5 + classes], like Detect.forward of YOLOv5 in inference."""
    parts = []
    for level, stride in enumerate(strides):
        rows, columns = height // stride, width // stride
        raw = graph.head("images", stride, 3 * (5 + classes))
        shaped = graph.op("Reshape", raw, graph.const([-1, 3, 5 + classes, rows, columns], np.int64))
        y = graph.op("Sigmoid", graph.op("Transpose", shaped, perm=[0, 1, 3, 4, 2]))
        split = graph.const([2, 2, 1 + classes], np.int64)
        xy, wh, rest = graph.op("Split", y, split, outputs=3, axis=4)
        doubled = graph.op("Mul", xy, graph.const(2.0))
        xy = graph.op("Add", doubled, graph.const(grid(rows, columns, -0.5)[None, None]))
        xy = graph.op("Mul", xy, graph.const(float(stride)))
        wh = graph.op("Pow", graph.op("Mul", wh, graph.const(2.0)), graph.const(2.0))
        wh = graph.op("Mul", wh, graph.const(ANCHORS[level][None, :, None, None]))
        boxes = graph.op("Concat", xy, wh, rest, axis=4)
        parts.append(graph.op("Reshape", boxes, graph.const([-1, 3 * rows * columns, 5 + classes], np.int64)))
    return graph.op("Concat", *parts, axis=1)


def yolov8(graph, classes, strides, height, width, corners=False):
    """[batch, 4 + classes, cells], like Detect.forward: distances from the cell's centre are expectations over bins."""
    levels, anchors, steps = [], [], []
    for stride in strides:
        rows, columns = height // stride, width // stride
        raw = graph.head("images", stride, 4 * BINS + classes)
        levels.append(graph.op("Reshape", raw, graph.const([0, 4 * BINS + classes, -1], np.int64)))
        anchors.append(grid(rows, columns, 0.5).reshape(-1, 2))
        steps.append(np.full(rows * columns, stride, np.float32))
    anchors, steps = np.concatenate(anchors).T[None], np.concatenate(steps)[None, None]
    everything = graph.op("Concat", *levels, axis=2)
    box, scores = graph.op("Split", everything, graph.const([4 * BINS, classes], np.int64), outputs=2, axis=1)
    bins = graph.op("Reshape", box, graph.const([0, 4, BINS, -1], np.int64))
    weights = graph.op("Softmax", bins, axis=2)
    expected = graph.op("Mul", weights, graph.const(np.arange(BINS)[None, None, :, None] / 4))
    distances = graph.op("ReduceSum", expected, graph.const([2], np.int64), keepdims=0)
    before, behind = graph.op("Split", distances, graph.const([2, 2], np.int64), outputs=2, axis=1)
    anchors = graph.const(anchors)
    low, high = graph.op("Sub", anchors, before), graph.op("Add", anchors, behind)
    if not corners:
        centre = graph.op("Mul", graph.op("Add", low, high), graph.const(0.5))
        low, high = centre, graph.op("Sub", high, low)
    boxes = graph.op("Mul", graph.op("Concat", low, high, axis=1), graph.const(steps))
    return graph.op("Concat", boxes, graph.op("Sigmoid", scores), axis=1)


def yolov10(graph, classes, strides, height, width, kept):
    """[batch, kept, 6], like v10Detect.postprocess: the highest scores of all cells and classes."""
    everything = graph.op("Transpose", yolov8(graph, classes, strides, height, width, corners=True), perm=[0, 2, 1])
    boxes, scores = graph.op("Split", everything, graph.const([4, classes], np.int64), outputs=2, axis=2)
    best = graph.op("ReduceMax", scores, axes=[2], keepdims=0)
    count = graph.const([kept], np.int64)
    _, cells = graph.op("TopK", best, count, outputs=2, axis=1)
    cells = graph.op("Unsqueeze", cells, graph.const([2], np.int64))
    of_boxes = graph.op("Expand", cells, graph.const([1, 1, 4], np.int64))
    of_scores = graph.op("Expand", cells, graph.const([1, 1, classes], np.int64))
    boxes, scores = (graph.op("GatherElements", boxes, of_boxes, axis=1),
                     graph.op("GatherElements", scores, of_scores, axis=1))
    flat = graph.op("Reshape", scores, graph.const([0, -1], np.int64))
    scores, index = graph.op("TopK", flat, count, outputs=2, axis=1)
    class_ = graph.op("Mod", index, graph.const([classes], np.int64))
    cell = graph.op("Unsqueeze", graph.op("Div", index, graph.const([classes], np.int64)), graph.const([2], np.int64))
    boxes = graph.op("GatherElements", boxes, graph.op("Expand", cell, graph.const([1, 1, 4], np.int64)), axis=1)
    last = graph.const([2], np.int64)
    scores = graph.op("Unsqueeze", scores, last)
    class_ = graph.op("Unsqueeze", graph.op("Cast", class_, to=TensorProto.FLOAT), last)
    return graph.op("Concat", boxes, scores, class_, axis=2)


def built(case):
    graph, names, strides = Graph(case["seed"]), case["names"], case["strides"]
    height, width, head, batch = case["height"], case["width"], case["head"], case.get("batch", 1)
    classes, cells = len(names), sum(height // s * (width // s) for s in strides)
    metadata = {"stride": max(strides), "names": dict(enumerate(names))}
    if head != "yolov5":
        metadata |= {"description": "Ultralytics YOLO11n model trained on x.yaml", "task": "detect", "batch": batch,
                     "imgsz": [height, width], "args": {"batch": batch, "half": case.get("half", False), "nms": False}}
    if head == "yolov5":
        output, dims, open_axis = yolov5(graph, classes, strides, height, width), [3 * cells, 5 + classes], 1
    elif head == "yolov8":
        output, dims, open_axis = yolov8(graph, classes, strides, height, width), [4 + classes, cells], 2
    else:
        metadata["end2end"] = True
        output, dims, open_axis = yolov10(graph, classes, strides, height, width, 300), [300, 6], None
    images, dims = [batch, 3, height, width], [batch, *dims]
    if case.get("dynamic"):
        images = ["batch", 3, "height", "width"]
        dims[0] = "batch"
        if open_axis:
            dims[open_axis] = "anchors"
        if case["dynamic"] == "all":
            dims = ["batch", "Concatoutput0_dim_1", "Concatoutput0_dim_2"]
    return graph.model(images, output, dims, metadata, case.get("half", False))


def resized(picture, width, height):
    """Bilinear scaling with half-pixel centres and rounding, like OpenCV's INTER_LINEAR."""
    def taps(length, wanted):
        at = np.clip((np.arange(wanted) + 0.5) * length / wanted - 0.5, 0, None)
        first = np.minimum(at.astype(int), length - 1)
        return first, np.minimum(first + 1, length - 1), np.minimum(at - first, 1)
    picture = picture.astype(np.float64)
    top, bottom, y = taps(picture.shape[0], height)
    left, right, x = taps(picture.shape[1], width)
    rows = picture[top] * (1 - y)[:, None, None] + picture[bottom] * y[:, None, None]
    return np.floor(rows[:, left] * (1 - x)[None, :, None] + rows[:, right] * x[None, :, None] + 0.5).astype(np.uint8)


def letterboxed(picture, height, width):
    gain = min(height / picture.shape[0], width / picture.shape[1])
    inner = round(picture.shape[1] * gain), round(picture.shape[0] * gain)
    pad_x, pad_y = (width - inner[0]) / 2, (height - inner[1]) / 2
    image = np.full((height, width, 3), 114, np.uint8)
    top, left = round(pad_y - 0.1), round(pad_x - 0.1)
    image[top:top + inner[1], left:left + inner[0]] = resized(picture, *inner)
    return image, gain


def suppressed(boxes, iou_max, limit=300):
    """Non-maximum suppression by class, with an offset for each class, as the predictors call torchvision's nms."""
    boxes = sorted(boxes, key=lambda box: -box[4])
    kept = []
    for box in boxes:
        moved = np.array(box[:4]) + box[5] * 7680
        for other in kept:
            others = np.array(other[:4]) + other[5] * 7680
            sides = np.clip(np.minimum(moved[2:], others[2:]) - np.maximum(moved[:2], others[:2]), 0, None)
            shared = sides.prod()
            area = lambda corners: (corners[2:] - corners[:2]).prod()
            if shared / (area(moved) + area(others) - shared) > iou_max:
                break
        else:
            kept.append(box)
    return kept[:limit]


def predicted(case, model, picture):
    height, width, confidence = case["height"], case["width"], case["confidence"]
    image, gain = letterboxed(picture, height, width)
    dtype = np.float16 if case.get("half") else np.float32
    tensor = (image.transpose(2, 0, 1)[None] / 255).astype(dtype).repeat(case.get("batch", 1), 0)
    output = ReferenceEvaluator(model, new_ops=[GatherElements]).run(None, {"images": tensor})[0][0].astype(np.float64)
    boxes = []
    if case["head"] == "yolov10":
        boxes = [row.tolist() for row in output if row[4] > confidence]
    else:
        if case["head"] == "yolov5":
            xywh, scores = output[:, :4], output[:, 5:] * output[:, 4:5]
            scores[output[:, 4] <= confidence] = 0
        else:
            xywh, scores = output[:4].T, output[4:].T
        for (x, y, w, h), score in zip(xywh, scores):
            if score.max() > confidence:
                boxes.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2, float(score.max()), int(score.argmax())])
        boxes = suppressed(boxes, case["iou"])
    pad_x, pad_y = (width - picture.shape[1] * gain) / 2, (height - picture.shape[0] * gain) / 2
    if case["head"] != "yolov5":
        pad_x, pad_y = round(pad_x - 0.1), round(pad_y - 0.1)
    limits = picture.shape[1], picture.shape[0]
    for box in boxes:
        for i in range(4):
            pad = (pad_x, pad_y)[i % 2]
            box[i] = float(np.clip((box[i] - pad) / gain, 0, limits[i % 2]))
    return boxes


def read_ppm(path):
    kind, size, _, pixels = open(path, "rb").read().split(b"\n", 3)
    assert kind == b"P6"
    width, height = map(int, size.split())
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def main():
    picture, found = read_ppm(sys.argv[1]), {}
    for case in json.load(sys.stdin):
        model = built(case)
        onnx.save(model, f"{sys.argv[2]}/{case['name']}.onnx")
        found[case["name"]] = predicted(case, model, picture)
    json.dump(found, sys.stdout)


main()
