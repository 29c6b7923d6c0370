"""Data sets of TensorFlow Datasets: prepared by its builders, read without TensorFlow."""
