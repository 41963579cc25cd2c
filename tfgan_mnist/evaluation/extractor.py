"""What turns images into features for the metrics: a classifier, or fixed random convolutions."""

import numpy as np
import tensorflow as tf

INFERENCE_BATCH_SIZE = 250  # its activations fit into a CPU's cache


class Extractor:
    """A function from images to features, and to logits where it knows classes.

    Args:
      network: images uint8 (B, H, W, C) -> features (B, d), logits (B, K), both float32 tensors.
      image_shape: (H, W, C).
      num_classes: K; 0 without classes, whose logits are (B, 0).
    """

    def __init__(self, network, image_shape: tuple[int, int, int], num_classes: int):
        self.image_shape = image_shape
        self.num_classes = num_classes
        self.infer = tf.function(
            network,
            input_signature=[tf.TensorSpec((None, *image_shape), tf.uint8)],
            jit_compile=False,  # XLA's convolutions are several times slower on a CPU
        )

    @property
    def name(self) -> str:
        """The name of the features, such as "mnist-28x1-v1"."""
        raise NotImplementedError

    @property
    def digest(self) -> str:
        """Eight letters that differ where features of this name do."""
        raise NotImplementedError

    @property
    def version(self) -> str:
        """Name and digest, to state beside every value: "mnist-28x1-v1 (1a2b3c4d)"."""
        return f"{self.name} ({self.digest})"

    def features_and_logits(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, H, W, C) uint8 in [0, 255] -> features (N, d), logits (N, K), both float32.

        Convert samples in [-1, 1] by `pixels.to_uint8` first, so that they are rounded to the same
        256 values as real images. Raises ValueError for another shape or type.
        """
        if batch.dtype != np.uint8 or batch.shape[1:] != self.image_shape or not len(batch):
            raise ValueError(
                f"expected images of shape (N >= 1, {', '.join(map(str, self.image_shape))}) "
                f"uint8; received {batch.shape} {batch.dtype}"
            )
        starts = range(0, len(batch), INFERENCE_BATCH_SIZE)
        outputs = [self.infer(batch[i : i + INFERENCE_BATCH_SIZE]) for i in starts]
        features, logits = zip(*outputs, strict=True)
        return np.concatenate(features), np.concatenate(logits)
