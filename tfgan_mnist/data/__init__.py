"""Images and their labels: data sets, the order of training, pixels and picture files."""

from tfgan_mnist.data.datasets import (
    STACKED_MNIST,
    ImageData,
    Split,
    canonical,
    file_name,
    load,
    short_name,
)

__all__ = [
    "STACKED_MNIST",
    "ImageData",
    "Split",
    "canonical",
    "file_name",
    "load",
    "short_name",
]
