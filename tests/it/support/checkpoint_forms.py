"""Converts a checkpoint to the formats of other trainers. It needs only NumPy: PyTorch's classes are replaced by
stand-ins with the same pickles.

    python checkpoint_forms.py FORM CHECKPOINT OUT

FORM is wrapped, settings (with PySlowFast's cfg), mmaction2, caffe2 (as pickled by Python 2), caffe2-python3 or fused
(for a YOLOv5).
"""

import io
import pickle
import re
import struct
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np

CFG = """DATA:
  NUM_FRAMES: 32
  SAMPLING_RATE: 3
  TEST_CROP_SIZE: 96
  TRAIN_CROP_SIZE: 64
DETECTION:
  ENABLE: false
SLOWFAST:
  ALPHA: 4
"""
STORAGES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8"}


def define(module, name, value=None):
    """A stand-in for `module.name`, which is pickled under that name."""
    parents = module.split(".")
    for depth in range(1, len(parents) + 1):
        below = sys.modules.setdefault(".".join(parents[:depth]), types.ModuleType(module))
    if not hasattr(below, name):
        made = value or type(name, (), {})
        made.__module__, made.__qualname__ = module, name
        setattr(below, name, made)
    return getattr(below, name)


class Storage:
    def __init__(self, kind, numbers):
        self.kind, self.numbers = kind, numbers


class Tensor:
    def __init__(self, numbers):
        self.numbers = numbers

    def __reduce__(self):
        kind = next(kind for kind, dtype in STORAGES.items() if self.numbers.dtype == dtype)
        strides = tuple(stride // self.numbers.itemsize for stride in self.numbers.strides)
        storage = Storage(kind, self.numbers)
        return rebuild_tensor, (storage, 0, self.numbers.shape, strides, False, OrderedDict())


class Parameter:
    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        return rebuild_parameter, (self.tensor, False, OrderedDict())


def _rebuild_tensor_v2(storage, offset, shape, stride, *_):
    numbers = np.lib.stride_tricks.as_strided(
        storage.numbers[offset:], shape, [step * storage.numbers.itemsize for step in stride]
    )
    return Tensor(np.ascontiguousarray(numbers).reshape(shape))


def _rebuild_parameter(tensor, *_):
    return Parameter(tensor)


rebuild_tensor = define("torch._utils", "_rebuild_tensor_v2", _rebuild_tensor_v2)
rebuild_parameter = define("torch._utils", "_rebuild_parameter", _rebuild_parameter)
for kind in STORAGES:
    define("torch", kind)


class Reader(pickle.Unpickler):
    def __init__(self, archive):
        self.archive = archive
        self.root = next(name for name in archive.namelist() if name.endswith("data.pkl"))[: -len("data.pkl")]
        super().__init__(io.BytesIO(archive.read(f"{self.root}data.pkl")))

    def find_class(self, module, name):
        known = module.split(".")[0] in ("collections", "builtins", "__builtin__")
        return super().find_class(module, name) if known else define(module, name)

    def persistent_load(self, of):
        _, kind, key, _, _ = of
        raw = self.archive.read(f"{self.root}data/{key}")
        return Storage(kind.__name__, np.frombuffer(raw, STORAGES[kind.__name__]))


class Writer(pickle.Pickler):
    def __init__(self, file):
        self.storages = []
        super().__init__(file, protocol=2)

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        self.storages.append(value.numbers.tobytes())
        kind = getattr(sys.modules["torch"], value.kind)
        return ("storage", kind, str(len(self.storages) - 1), "cpu", value.numbers.size)


def write_torch(path, value):
    file = io.BytesIO()
    writer = Writer(file)
    writer.dump(value)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", file.getvalue())
        for key, raw in enumerate(writer.storages):
            archive.writestr(f"archive/data/{key}", raw)


def renamed(parameters, rules):
    def name_of(own):
        for pattern, other in rules:
            found = re.fullmatch(pattern, own)
            if found:
                return other(*found.groups())
        raise ValueError(f"no rule for {own}")

    return {name_of(own): numbers for own, numbers in parameters.items() if not own.endswith("num_batches_tracked")}


def mmaction2(parameters):
    """Renames parameters to those of `ResNet3dSlowFast` (with `lateral_norm=True`, if these have one) and
    `SlowFastHead`. The inputs of its classifier start with the Fast pathway's features."""
    path = {"0": "slow", "1": "fast"}
    layer = {"conv": "conv", "norm": "bn", "conv_fast_to_slow": "conv"}
    number = {"a": 1, "b": 2, "c": 3}

    def lateral(block, kind, leaf):
        return f"backbone.slow_path.{'conv1' if block == '0' else f'layer{block}'}_lateral.{layer[kind]}.{leaf}"

    rules = [
        (
            r"blocks\.0\.multipathway_blocks\.(\d)\.(conv|norm)\.(\w+)",
            lambda p, kind, leaf: f"backbone.{path[p]}_path.conv1.{layer[kind]}.{leaf}",
        ),
        (r"blocks\.(\d)\.multipathway_fusion\.(conv_fast_to_slow|norm)\.(\w+)", lateral),
        (
            r"blocks\.(\d)\.multipathway_blocks\.(\d)\.res_blocks\.(\d+)\.branch1_(conv|norm)\.(\w+)",
            lambda b, p, r, kind, leaf: f"backbone.{path[p]}_path.layer{b}.{r}.downsample.{layer[kind]}.{leaf}",
        ),
        (
            r"blocks\.(\d)\.multipathway_blocks\.(\d)\.res_blocks\.(\d+)\.branch2\.(conv|norm)_([abc])\.(\w+)",
            lambda b, p, r, kind, n, leaf: f"backbone.{path[p]}_path.layer{b}.{r}.conv{number[n]}.{layer[kind]}.{leaf}",
        ),
        (r"blocks\.6\.proj\.(\w+)", lambda leaf: f"cls_head.fc_cls.{leaf}"),
    ]
    slow, fast = (parameters[f"blocks.0.multipathway_blocks.{p}.conv.weight"].shape[0] * 32 for p in (0, 1))
    head = parameters["blocks.6.proj.weight"]
    assert head.shape[1] == slow + fast
    swapped = np.concatenate([head[:, slow:], head[:, :slow]], 1)
    return renamed({**parameters, "blocks.6.proj.weight": swapped}, rules)


def caffe2(parameters):
    """Renames parameters to those that `slowfast/utils/c2_model_loading.py` of PySlowFast reads."""
    leaf = {"bias": "b", "running_mean": "rm", "running_var": "riv"}
    blocks = [3, 4, len({n.split(".")[5] for n in parameters if re.match(r"blocks\.3\.\w+\.0\.res_blocks", n)}), 3]

    def short(kind, of):
        if kind in ("conv", "conv_fast_to_slow"):
            return {"weight": "w", "bias": "b"}[of]
        return "bn_" + {"weight": "s", **leaf}[of]

    def fusion(block, kind, of):
        stage = int(block) + 1
        before = "t_pool1" if stage == 1 else f"t_res{stage}_{blocks[stage - 2] - 1}_branch2c_bn"
        return f"{before}_subsample_{short(kind, of)}"

    prefix = {"0": "", "1": "t_"}
    rules = [
        (
            r"blocks\.0\.multipathway_blocks\.(\d)\.(conv|norm)\.(\w+)",
            lambda p, kind, of: f"{prefix[p]}{'res_' if kind == 'norm' else ''}conv1_{short(kind, of)}",
        ),
        (r"blocks\.(\d)\.multipathway_fusion\.(conv_fast_to_slow|norm)\.(\w+)", fusion),
        (
            r"blocks\.(\d)\.multipathway_blocks\.(\d)\.res_blocks\.(\d+)\.branch1_(conv|norm)\.(\w+)",
            lambda b, p, r, kind, of: f"{prefix[p]}res{int(b) + 1}_{r}_branch1_{short(kind, of)}",
        ),
        (
            r"blocks\.(\d)\.multipathway_blocks\.(\d)\.res_blocks\.(\d+)\.branch2\.(conv|norm)_([abc])\.(\w+)",
            lambda b, p, r, kind, n, of: f"{prefix[p]}res{int(b) + 1}_{r}_branch2{n}_{short(kind, of)}",
        ),
        (r"blocks\.6\.proj\.(\w+)", lambda of: f"pred_{short('conv', of)}"),
    ]
    blobs = renamed(parameters, rules)
    # Values of the solver, which such files also contain.
    extra = {f"{name}_momentum": np.zeros_like(numbers) for name, numbers in list(blobs.items())[:3]}
    return {**blobs, **extra, "lr": np.zeros(1, np.float32), "model_iter": np.zeros(1, np.int64)}


def python2_pickle(blobs):
    """Pickles as Python 2 does with protocol 2: both texts and the data of arrays are byte strings."""

    def text(value):
        raw = value if isinstance(value, bytes) else value.encode()
        return b"U" + bytes([len(raw)]) + raw if len(raw) < 256 else b"T" + struct.pack("<i", len(raw)) + raw

    def array(numbers):
        dtype = numbers.dtype.str[1:]
        shape = b"(" + b"".join(b"J" + struct.pack("<i", n) for n in numbers.shape) + b"t"
        made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text("b") + b"tR"
        kind = b"cnumpy\ndtype\n(" + text(dtype) + b"K\x00K\x01tR(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        return made + b"(K\x01" + shape + kind + b"\x89" + text(numbers.tobytes()) + b"tb"

    entries = b"".join(text(name) + array(np.ascontiguousarray(numbers)) for name, numbers in blobs.items())
    return b"\x80\x02}(" + text("blobs") + b"}(" + entries + b"u" + text("cfg") + text("") + b"u."


def fuse(module):
    """Like YOLOv5's `fuse()`: merges the batch norm of each Conv into its convolution, which gets a bias, and replaces
    `forward`."""
    for inner in module.__dict__.get("_modules", {}).values():
        if inner is not None:
            fuse(inner)
    if type(module).__name__ != "Conv":
        return
    conv, norm = module._modules["conv"], module._modules.pop("bn")
    gain, shift = (norm._parameters[leaf].tensor.numbers.astype(np.float64) for leaf in ("weight", "bias"))
    mean, variance = (norm._buffers[leaf].numbers.astype(np.float64) for leaf in ("running_mean", "running_var"))
    scale = gain / np.sqrt(variance + norm.eps)
    weight = conv._parameters["weight"].tensor.numbers.astype(np.float64) * scale[:, None, None, None]
    for leaf, numbers in [("weight", weight), ("bias", shift - mean * scale)]:
        conv._parameters[leaf] = Parameter(Tensor(np.ascontiguousarray(numbers, np.float32)))
    type(module).forward_fuse = lambda self, x: x
    module.forward = module.forward_fuse


def main(form, source, out):
    with zipfile.ZipFile(source) as archive:
        content = Reader(archive).load()
    if form == "fused":
        fuse(content["ema"] or content["model"])
        return write_torch(out, content)
    parameters = {name: tensor.numbers for name, tensor in content["model_state"].items()}
    if form == "wrapped":
        state = {f"module._orig_mod.model.{name}": Tensor(numbers) for name, numbers in parameters.items()}
        return write_torch(out, {"epoch": 3, "model_state_dict": OrderedDict(state)})
    if form == "settings":
        return write_torch(out, {"model_state": content["model_state"], "cfg": CFG})
    if form == "mmaction2":
        state = {name: Tensor(np.ascontiguousarray(numbers)) for name, numbers in mmaction2(parameters).items()}
        return write_torch(out, {"meta": {"epoch": 3}, "state_dict": OrderedDict(state)})
    blobs = caffe2(parameters)
    with open(out, "wb") as file:
        file.write(python2_pickle(blobs) if form == "caffe2" else pickle.dumps({"blobs": blobs, "cfg": ""}, 2))


if __name__ == "__main__":
    main(*sys.argv[1:])
