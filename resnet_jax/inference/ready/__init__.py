"""Networks made ready for inference on the CPU: oneDNN's primitives in a row, with packed kernels and fused sums."""
