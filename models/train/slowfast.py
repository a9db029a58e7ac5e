"""A slim SlowFast (arXiv 1812.03982), R50, with the parameter names of PyTorchVideo's `create_slowfast`."""

import torch
from torch import nn

BLOCKS = (3, 4, 6, 3)
# Temporal size of the first convolution of each stage's blocks, in the Slow and in the Fast pathway.
KERNELS = ((1, 1, 3, 3), (3, 3, 3, 3))
STEM_KERNELS = (1, 5)
FUSION_KERNEL = 7
FUSION_RATIO = 2


def conv(inputs, outputs, kernel, stride=(1, 1, 1)):
    return nn.Conv3d(inputs, outputs, kernel, stride, [size // 2 for size in kernel], bias=False)


class Branch2(nn.Module):
    """1x1 over `kernel` frames, 3x3, 1x1 to four times as many channels."""

    def __init__(self, inputs, inner, kernel, stride):
        super().__init__()
        self.conv_a = conv(inputs, inner, (kernel, 1, 1))
        self.norm_a = nn.BatchNorm3d(inner)
        self.conv_b = conv(inner, inner, (1, 3, 3), (1, stride, stride))
        self.norm_b = nn.BatchNorm3d(inner)
        self.conv_c = conv(inner, inner * 4, (1, 1, 1))
        self.norm_c = nn.BatchNorm3d(inner * 4)
        nn.init.zeros_(self.norm_c.weight)

    def forward(self, x):
        x = self.norm_a(self.conv_a(x)).relu_()
        x = self.norm_b(self.conv_b(x)).relu_()
        return self.norm_c(self.conv_c(x))


class Block(nn.Module):
    def __init__(self, inputs, inner, kernel, stride):
        super().__init__()
        if inputs != inner * 4 or stride > 1:
            self.branch1_conv = conv(inputs, inner * 4, (1, 1, 1), (1, stride, stride))
            self.branch1_norm = nn.BatchNorm3d(inner * 4)
        self.branch2 = Branch2(inputs, inner, kernel, stride)

    def forward(self, x):
        shortcut = self.branch1_norm(self.branch1_conv(x)) if hasattr(self, "branch1_conv") else x
        return (shortcut + self.branch2(x)).relu_()


class Stem(nn.Module):
    def __init__(self, channels, kernel):
        super().__init__()
        self.conv = conv(3, channels, (kernel, 7, 7), (1, 2, 2))
        self.norm = nn.BatchNorm3d(channels)

    def forward(self, x):
        return nn.functional.max_pool3d(self.norm(self.conv(x)).relu_(), (1, 3, 3), (1, 2, 2), (0, 1, 1))


class Fusion(nn.Module):
    """Passes Fast's features to the Slow pathway."""

    def __init__(self, fast, alpha):
        super().__init__()
        self.conv_fast_to_slow = conv(fast, fast * FUSION_RATIO, (FUSION_KERNEL, 1, 1), (alpha, 1, 1))
        self.norm = nn.BatchNorm3d(fast * FUSION_RATIO)

    def forward(self, slow, fast):
        return torch.cat([slow, self.norm(self.conv_fast_to_slow(fast)).relu_()], 1)


class Stage(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.res_blocks = nn.ModuleList(blocks)

    def forward(self, x):
        for block in self.res_blocks:
            x = block(x)
        return x


class Both(nn.Module):
    """A stage of both pathways, followed by the fusion."""

    def __init__(self, pathways, fusion):
        super().__init__()
        self.multipathway_blocks = nn.ModuleList(pathways)
        if fusion is not None:
            self.multipathway_fusion = fusion

    def forward(self, slow, fast):
        slow, fast = self.multipathway_blocks[0](slow), self.multipathway_blocks[1](fast)
        return (self.multipathway_fusion(slow, fast) if hasattr(self, "multipathway_fusion") else slow), fast


class Head(nn.Module):
    def __init__(self, features, classes, pool):
        super().__init__()
        self.pool = pool
        self.dropout = nn.Dropout(0.3)
        self.proj = nn.Linear(features, classes)

    def forward(self, slow, fast):
        def pooled(x):
            return nn.functional.avg_pool3d(x, (x.shape[2], self.pool, self.pool), 1).mean((2, 3, 4))

        return self.proj(self.dropout(torch.cat([pooled(slow), pooled(fast)], 1)))


class SlowFast(nn.Module):
    """Takes `[batch, 3, frames, side, side]`; returns logits `[batch, classes]`. The Fast pathway receives the difference
    from the previous frame (section 4.1)."""

    def __init__(self, classes, width, beta, alpha, pool):
        super().__init__()
        self.alpha = alpha
        widths = (width, width // beta)
        blocks = [Both([Stem(w, k) for w, k in zip(widths, STEM_KERNELS)], Fusion(widths[1], alpha))]
        inputs = list(widths)
        fused = FUSION_RATIO * widths[1]
        for stage, count in enumerate(BLOCKS):
            pathways = []
            for index, (channels, kernels) in enumerate(zip(widths, KERNELS)):
                inner = channels << stage
                first = inputs[index] + (fused if index == 0 else 0)
                stride = 2 if stage > 0 else 1
                row = [Block(first, inner, kernels[stage], stride)]
                row += [Block(inner * 4, inner, kernels[stage], 1) for _ in range(count - 1)]
                pathways.append(Stage(row))
                inputs[index] = inner * 4
            fused = FUSION_RATIO * inputs[1]
            blocks.append(Both(pathways, Fusion(inputs[1], alpha) if stage < 3 else None))
        # The official number of the head is 6, because number 5 only pools.
        blocks += [nn.Identity(), Head(sum(inputs), classes, pool)]
        self.blocks = nn.ModuleList(blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clip):
        frames = clip.shape[2]
        kept = torch.linspace(0, frames - 1, frames // self.alpha).long()
        slow, fast = clip[:, :, kept], torch.diff(clip, dim=2, prepend=clip[:, :, :1])
        for block in self.blocks[:5]:
            slow, fast = block(slow, fast)
        return self.blocks[6](slow, fast)
