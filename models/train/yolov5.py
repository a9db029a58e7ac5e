"""A slim YOLOv5 of releases 6.0 to 7.0, with the official parameter names, and its loss."""

import torch
from torch import nn

STRIDES = (8, 16, 32)
# The official anchors in pixels, three per grid.
ANCHORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
# An anchor is responsible for boxes up to this factor larger or smaller.
ANCHOR_RATIO = 4.0
# Weight of each grid's objectness loss.
BALANCE = (4.0, 1.0, 0.4)
BOX_GAIN, OBJECTNESS_GAIN, CLASS_GAIN = 0.05, 1.0, 0.3


class Conv(nn.Module):
    def __init__(self, inputs, outputs, kernel=1, stride=1, padding=None):
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)

    def forward(self, x):
        return nn.functional.silu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, channels, shortcut):
        super().__init__()
        self.cv1, self.cv2 = Conv(channels, channels), Conv(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x):
        y = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class C3(nn.Module):
    def __init__(self, inputs, outputs, count, shortcut):
        super().__init__()
        hidden = outputs // 2
        self.cv1, self.cv2, self.cv3 = Conv(inputs, hidden), Conv(inputs, hidden), Conv(2 * hidden, outputs)
        self.m = nn.Sequential(*(Bottleneck(hidden, shortcut) for _ in range(count)))

    def forward(self, x):
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))


class SPPF(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.cv1, self.cv2 = Conv(channels, channels // 2), Conv(channels * 2, channels)

    def forward(self, x):
        values = [self.cv1(x)]
        for _ in range(3):
            values.append(nn.functional.max_pool2d(values[-1], 5, 1, 2))
        return self.cv2(torch.cat(values, 1))


class Detect(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        anchors = torch.tensor(ANCHORS).float() / torch.tensor(STRIDES).view(3, 1, 1)
        self.register_buffer("anchors", anchors)
        self.m = nn.ModuleList(nn.Conv2d(width, 3 * (5 + classes), 1) for width in channels)
        for head, stride in zip(self.m, STRIDES):
            with torch.no_grad():
                bias = head.bias.view(3, -1)
                # Start with a few objects per picture.
                bias[:, 4] += torch.log(torch.tensor(3 / (320 / stride) ** 2))

    def forward(self, features):
        """Returns `[batch, 3, rows, columns, 5 + classes]` per grid, before the sigmoid."""
        raw = []
        for head, x in zip(self.m, features):
            x = head(x)
            raw.append(x.view(x.shape[0], 3, -1, *x.shape[2:]).permute(0, 1, 3, 4, 2).float())
        return raw


class Yolov5(nn.Module):
    """Takes `[batch, 3, height, width]`, RGB in 0..1."""

    def __init__(self, classes, width_multiple, repeats=(1, 2, 3, 1)):
        super().__init__()
        a, b, c, d, e = (int(width * width_multiple + 7) // 8 * 8 for width in (64, 128, 256, 512, 1024))
        self.model = nn.ModuleList(
            [
                Conv(3, a, 6, 2, 2),
                Conv(a, b, 3, 2),
                C3(b, b, repeats[0], True),
                Conv(b, c, 3, 2),
                C3(c, c, repeats[1], True),
                Conv(c, d, 3, 2),
                C3(d, d, repeats[2], True),
                Conv(d, e, 3, 2),
                C3(e, e, repeats[3], True),
                SPPF(e),
                Conv(e, d),
                nn.Identity(),  # 11: up
                nn.Identity(),  # 12: concatenated with 6
                C3(2 * d, d, 1, False),
                Conv(d, c),
                nn.Identity(),  # 15: up
                nn.Identity(),  # 16: concatenated with 4
                C3(2 * c, c, 1, False),
                Conv(c, c, 3, 2),
                nn.Identity(),  # 19: concatenated with 14
                C3(2 * c, d, 1, False),
                Conv(d, d, 3, 2),
                nn.Identity(),  # 22: concatenated with 10
                C3(2 * d, e, 1, False),
                Detect((c, d, e), classes),
            ]
        )

    def forward(self, x):
        layer = self.model
        for index in range(5):
            x = layer[index](x)
        fine = x
        middle = layer[6](layer[5](fine))
        coarse = layer[9](layer[8](layer[7](middle)))
        ten = layer[10](coarse)
        middle = layer[13](torch.cat([nn.functional.interpolate(ten, scale_factor=2.0), middle], 1))
        fourteen = layer[14](middle)
        fine = layer[17](torch.cat([nn.functional.interpolate(fourteen, scale_factor=2.0), fine], 1))
        middle = layer[20](torch.cat([layer[18](fine), fourteen], 1))
        coarse = layer[23](torch.cat([layer[21](middle), ten], 1))
        return layer[24]([fine, middle, coarse])


def ciou(a, b):
    """Complete IoU (arXiv 1911.08287) of boxes `[n, 4]` as centre and size."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.unbind(1), b.unbind(1)

    def overlap(x, w, y, v):
        return (torch.minimum(x + w / 2, y + v / 2) - torch.maximum(x - w / 2, y - v / 2)).clamp(0)

    def span(x, w, y, v):
        return torch.maximum(x + w / 2, y + v / 2) - torch.minimum(x - w / 2, y - v / 2)

    inter = overlap(ax, aw, bx, bw) * overlap(ay, ah, by, bh)
    iou = inter / (aw * ah + bw * bh - inter + 1e-7)
    diagonal = span(ax, aw, bx, bw) ** 2 + span(ay, ah, by, bh) ** 2 + 1e-7
    distance = (ax - bx) ** 2 + (ay - by) ** 2
    shape = 4 / torch.pi**2 * (torch.atan(bw / (bh + 1e-7)) - torch.atan(aw / (ah + 1e-7))) ** 2
    with torch.no_grad():
        weight = shape / (1 - iou + shape + 1e-7)
    return iou - distance / diagonal - weight * shape


def loss(raw, boxes, anchors):
    """`boxes` is `[n, 5]`: index in the batch, centre and size in pixels. All have class 0."""
    total = torch.zeros(())
    bce = nn.functional.binary_cross_entropy_with_logits
    for level, (grid, stride) in enumerate(zip(raw, STRIDES)):
        _, _, rows, columns, _ = grid.shape
        wanted = torch.zeros(grid.shape[:4])
        batch, anchor, cell_y, cell_x, target = assign(boxes, anchors[level], stride, rows, columns)
        if len(batch):
            found = grid[batch, anchor, cell_y, cell_x]
            centre = found[:, :2].sigmoid() * 2 - 0.5
            size = (found[:, 2:4].sigmoid() * 2) ** 2 * anchors[level][anchor]
            iou = ciou(torch.cat([centre, size], 1), target)
            total = total + BOX_GAIN * (1 - iou).mean()
            total = total + CLASS_GAIN * bce(found[:, 5:], torch.ones_like(found[:, 5:]))
            wanted[batch, anchor, cell_y, cell_x] = iou.detach().clamp(0)
        total = total + OBJECTNESS_GAIN * BALANCE[level] * bce(grid[..., 4], wanted)
    return total


def assign(boxes, anchors, stride, rows, columns):
    """Assigns boxes to anchors of cells: the box's own cell and its two nearest neighbours."""
    in_cells = boxes[:, 1:] / stride
    ratio = in_cells[:, None, 2:] / anchors[None]
    box, anchor = torch.nonzero(torch.maximum(ratio, 1 / ratio).amax(2) < ANCHOR_RATIO, as_tuple=True)
    centre = in_cells[box, :2]
    near_low = centre % 1 < 0.5
    picks = [torch.zeros_like(centre)]
    keep = [torch.ones(len(box), dtype=torch.bool)]
    for axis in (0, 1):
        for is_low, step in ((True, -1.0), (False, 1.0)):
            offset = torch.zeros_like(centre)
            offset[:, axis] = step
            picks.append(offset)
            keep.append(near_low[:, axis] == is_low)
    cells = torch.cat([(centre + offset)[kept] for offset, kept in zip(picks, keep)]).floor().long()
    box, anchor = (torch.cat([index[kept] for kept in keep]) for index in (box, anchor))
    inside = (cells[:, 0] >= 0) & (cells[:, 0] < columns) & (cells[:, 1] >= 0) & (cells[:, 1] < rows)
    box, anchor, cells = box[inside], anchor[inside], cells[inside]
    target = torch.cat([in_cells[box, :2] - cells, in_cells[box, 2:]], 1)
    return boxes[box, 0].long(), anchor, cells[:, 1], cells[:, 0], target


def decode(raw, anchors):
    """Boxes of one picture, `[n, 5]`: corners in pixels of the input, and objectness x class."""
    out = []
    for level, (grid, stride) in enumerate(zip(raw, STRIDES)):
        grid = grid[0].sigmoid()
        rows, columns = grid.shape[1:3]
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centre = (grid[..., :2] * 2 - 0.5 + torch.stack([x, y], -1)) * stride
        size = (grid[..., 2:4] * 2) ** 2 * anchors[level].view(3, 1, 1, 2) * stride
        score = grid[..., 4:5] * grid[..., 5:6]
        out.append(torch.cat([centre - size / 2, centre + size / 2, score], -1).view(-1, 5))
    return torch.cat(out)
