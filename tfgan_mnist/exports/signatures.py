"""The signatures of an exported generator, with labels for conditional models only.

serving_default   latents (B, Z) float32 [, labels (B,) int32] -> images (B, H, W, C) float32
sample            seed (B,) int32 [, labels (B,) int32]        -> images (B, H, W, C) float32
png               seed (B,) int32 [, labels (B,) int32]        -> png_bytes (B,) string, PNG files

Images are in [0, 1]. Each row of `sample` and `png` draws its latent from its own seed, so that the
same request has the same answer on every replica and after every restart.
"""

from typing import TYPE_CHECKING

import numpy as np

from tfgan_mnist.models import latents

if TYPE_CHECKING:
    from tfgan_mnist.models.gan import GAN


def endpoints(model: "GAN") -> dict[str, tuple]:
    """Signature name -> (function, specifications of its inputs)."""
    import tensorflow as tf

    def serving_default(latents, labels=None):
        if model.num_classes:
            labels = expect_classes(labels, model.num_classes)
        images = model.generate(latents, labels, training=False)  # (B, H, W, C) in [-1, 1]
        return {"images": (images + 1.0) / 2.0}

    def sample(seed, labels=None):
        return serving_default(draw(seed), labels)

    def png(seed, labels=None):
        images = sample(seed, labels)["images"]
        pixels = tf.saturate_cast(tf.round(255.0 * images), tf.uint8)
        return {"png_bytes": tf.io.encode_png(pixels)}

    def draw(seed):
        """(B,) -> latents (B, Z) from N(0, 1), each row a function of its own seed."""
        # The algorithm is named because the default one depends on the device.
        return tf.map_fn(
            lambda one: tf.random.stateless_normal(
                [model.latent_dim], seed=tf.stack([one, 0]), alg="philox"
            ),
            seed,
            fn_output_signature=tf.TensorSpec([model.latent_dim], tf.float32),
        )

    def expect_classes(labels, num_classes: int):
        """Labels (B,) as they are; refuses the request when one is not a class.

        An embedding would take -1 for the last class, and a one-hot of it is no class at all.
        """
        is_class = (labels >= 0) & (labels < num_classes)
        message = f"labels: expected 0..{num_classes - 1}; received"
        wrong = tf.boolean_mask(labels, ~is_class)
        with tf.control_dependencies(
            [tf.debugging.Assert(tf.reduce_all(is_class), [message, wrong], summarize=10)]
        ):
            return tf.identity(labels)

    of_latents = [tf.TensorSpec((None, model.latent_dim), tf.float32, name="latents")]
    of_seed = [tf.TensorSpec((None,), tf.int32, name="seed")]
    of_labels = [tf.TensorSpec((None,), tf.int32, name="labels")] if model.num_classes else []
    return {
        "serving_default": (serving_default, of_latents + of_labels),
        "sample": (sample, of_seed + of_labels),
        "png": (png, of_seed + of_labels),
    }


def requests(model: "GAN", signatures: dict[str, tuple], rows: int) -> dict[str, dict]:
    """Signature name -> inputs by name, of `rows` rows."""
    return {
        name: request(model.latent_dim, model.num_classes, [spec.name for spec in inputs], rows)
        for name, (_, inputs) in signatures.items()
    }


def request(latent_dim: int, num_classes: int | None, names: list[str], rows: int) -> dict:
    """Inputs by name, those of `names` that the model takes."""
    numbers = np.arange(rows, dtype=np.int32)
    values = {"latents": latents.draw(rows, latent_dim, seed=0), "seed": numbers}
    if num_classes:
        values["labels"] = numbers % num_classes
    return {name: values[name] for name in names if name in values}
