"""The same networks in plain torch modules, timed in a separate process: python -m resnet_jax.benchmark.torch_side.

Nothing that computes is imported here but torch. The process reads a specification as JSON from its first line of
standard input and answers with one line; every further line "go" makes it take one measurement and answer with its
seconds per step.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnet_jax.runtime import peak_memory

# So small that a benchmark's few steps on one batch stay in ordinary numbers: gradients that vanish become subnormal,
# with which CPUs are slow.
LEARNING_RATE = 1e-3


class ConvNorm(nn.Module):
    """A convolution, batch norm, and ReLU if asked for; folded into one convolution for inference."""

    def __init__(self, channels: int, features: int, size: int, stride: int = 1, groups: int = 1, relu: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(channels, features, size, stride, size // 2, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(features)
        self.relu = relu

    def fold(self) -> None:
        """Has batch norm's running statistics become the convolution's weights and bias."""
        self.conv = fuse_conv_bn_eval(self.conv, self.norm)
        self.norm = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (B, C, H, W) to (B, F, h, w)."""
        x = self.norm(self.conv(x))
        return functional.relu(x, inplace=True) if self.relu else x


class Block(nn.Module):
    """A basic or bottleneck block with its shortcut."""

    def __init__(self, channels: int, filters: int, stride: int, spec: dict[str, Any]):
        super().__init__()
        if spec["block_cls"] == "basic":
            features = filters
            self.branch = nn.Sequential(
                ConvNorm(channels, filters, 3, stride), ConvNorm(filters, features, 3, relu=False)
            )
        else:
            features, groups = 4 * filters, spec["groups"]
            width = int(filters * spec["width_per_group"] / 64) * groups
            first, second = (stride, 1) if spec["stride_in"] == "1x1" else (1, stride)
            self.branch = nn.Sequential(
                ConvNorm(channels, width, 1, first),
                ConvNorm(width, width, 3, second, groups),
                ConvNorm(width, features, 1, relu=False),
            )
        self.shortcut, self.stride, self.extra = spec["shortcut"], stride, features - channels
        changes_shape = stride != 1 or channels != features
        self.projection = None
        if self.shortcut == "C" or (self.shortcut == "B" and changes_shape):
            self.projection = ConvNorm(channels, features, 1, stride, relu=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (B, C, H, W) to (B, F, h, w)."""
        y = self.branch(x)
        if self.projection is not None:
            y = y + self.projection(x)
        elif self.shortcut == "A" and (self.stride != 1 or self.extra):
            x = x[:, :, :: self.stride, :: self.stride]
            y = y + functional.pad(x, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))
        elif self.shortcut != "none":
            y = y + x
        return functional.relu(y, inplace=True)


class Network(nn.Module):
    """The network of `resnet_jax.ResNet` with the same arguments."""

    def __init__(self, spec: dict[str, Any]):
        super().__init__()
        channels = spec["num_filters"]
        imagenet = spec["stem"] == "imagenet"
        self.stem = ConvNorm(3, channels, 7, 2) if imagenet else ConvNorm(3, channels, 3)
        self.pool = nn.MaxPool2d(3, 2, 1) if imagenet else nn.Identity()
        blocks: list[nn.Module] = []
        for stage, num_blocks in enumerate(spec["stage_sizes"]):
            filters = spec["num_filters"] * 2**stage
            for i in range(num_blocks):
                blocks.append(Block(channels, filters, 2 if stage and not i else 1, spec))
                channels = filters * (1 if spec["block_cls"] == "basic" else 4)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, spec["num_classes"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (B, 3, H, W) to (B, K)."""
        return self.head(self.blocks(self.pool(self.stem(x))).mean((2, 3)))


def make_step(spec: dict[str, Any], variant: str) -> Callable[[], Any]:
    """Returns one step of the specified work: SGD with momentum and weight decay, or inference with batch norm folded.

    Args:
      variant: "contiguous" or "channels-last", then "autocast" and "compile" where wanted, in one string. With
        "autocast" the network stays in float32, and torch chooses what it computes in spec["dtype"].
    """
    words = set(variant.split())
    device, dtype = torch.device(spec["device"]), getattr(torch, spec["dtype"])
    memory_format = torch.channels_last if "channels-last" in words else torch.contiguous_format
    cast = torch.autocast(device.type, dtype) if "autocast" in words else contextlib.nullcontext()
    kept = torch.float32 if "autocast" in words else dtype
    if spec["model_args"]["block_only"]:
        network: nn.Module = Block(spec["input_shape"][-1], spec["model_args"]["filters"], 1, spec["model_args"])
    else:
        network = Network(spec["model_args"])
    network = network.to(device=device, dtype=kept, memory_format=memory_format)
    batch, height, width, channels = spec["input_shape"]
    images = torch.randn(batch, channels, height, width, dtype=kept, device=device).to(memory_format=memory_format)
    if spec["inference"]:
        network.eval()
        for module in list(network.modules()):
            if isinstance(module, ConvNorm):
                module.fold()
        network.to(memory_format=memory_format)
        if "compile" in words:
            network.compile(mode="reduce-overhead")  # with CUDA graphs, which small batches need

        def infer() -> torch.Tensor:
            with torch.inference_mode(), cast:
                return network(images)

        return infer
    if "compile" in words:
        network.compile()
    fused = {"fused": True} if device.type == "cuda" else {}
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4, **fused)
    labels = torch.arange(batch, device=device) % spec["model_args"].get("num_classes", 1)

    def train() -> torch.Tensor:
        optimizer.zero_grad()
        with cast:
            outputs = network(images)
            loss = outputs.square().mean() if outputs.ndim == 4 else functional.cross_entropy(outputs, labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return train


def measure(step: Callable[[], Any], num_steps: int, device: str) -> float:
    """Returns the seconds per step."""
    started = time.perf_counter()
    for _ in range(num_steps):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / num_steps


def main() -> None:
    """Answers the benchmark's lines until there are no more."""
    spec = json.loads(sys.stdin.readline())
    device, num_steps = spec["device"], spec["num_steps"]
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    best, fastest, times = None, "", {}
    for variant in spec["variants"]:
        step = make_step(spec, variant)
        measure(step, 3, device)
        times[variant] = min(measure(step, num_steps, device) for _ in range(3))
        if best is None or times[variant] < times[fastest]:
            best, fastest = step, variant
        del step  # and with it its memory, unless it is the best
    assert best is not None
    print(json.dumps({"version": torch.__version__, "variant": fastest}), flush=True)
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for line in sys.stdin:
        if line.strip() == "go":
            seconds = measure(best, num_steps, device)
            memory = torch.cuda.max_memory_allocated() if device == "cuda" else peak_memory()
            print(json.dumps({"seconds": seconds, "peak_memory": memory}), flush=True)


if __name__ == "__main__":
    main()
