"""Networks as torch tutorials and CIFAR repositories write them, to load what we export."""

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """A basic block; `option` "A" pads its shortcut with zero channels, "B" projects it as `shortcut`."""

    def __init__(self, channels, filters, stride, option, bias):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=bias)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=bias)
        self.bn2 = nn.BatchNorm2d(filters)
        self.shortcut = nn.Sequential()
        self.stride, self.extra = stride, filters - channels
        if option == "B" and (stride != 1 or self.extra):
            self.shortcut = nn.Sequential(nn.Conv2d(channels, filters, 1, stride, bias=bias), nn.BatchNorm2d(filters))

    def forward(self, x):
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if len(self.shortcut):
            x = self.shortcut(x)
        elif self.extra:
            half = self.extra // 2
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.extra - half))
        return functional.relu(x + y)


class Network(nn.Module):
    """A CIFAR network of basic blocks with the head under the given name."""

    def __init__(self, stage_sizes, filters=16, num_classes=10, option="A", head="linear", bias=False):
        super().__init__()
        self.conv1 = nn.Conv2d(3, filters, 3, 1, 1, bias=bias)
        self.bn1 = nn.BatchNorm2d(filters)
        self.num_stages, channels = len(stage_sizes), filters
        for stage, num_blocks in enumerate(stage_sizes):
            blocks = []
            for i in range(num_blocks):
                blocks.append(Block(channels, filters * 2**stage, 2 if stage and not i else 1, option, bias))
                channels = filters * 2**stage
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.head = head
        setattr(self, head, nn.Linear(channels, num_classes))

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        for stage in range(self.num_stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return getattr(self, self.head)(x.mean((2, 3)))


def randomize(network, seed=0):
    """Weights and statistics that matter."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.is_floating_point():
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 10
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (1.5 / fan_in) ** 0.5)
    return network.eval()
