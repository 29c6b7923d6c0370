"""The words that the arguments of blocks may be, and those of `ResNet` that it hands on to them."""

SHORTCUTS = ("A", "A_end", "B", "C", "D", "none")
STRIDES_IN = ("3x3", "1x1")  # the convolution of a bottleneck that carries the stride
