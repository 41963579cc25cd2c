"""Two networks as one Keras model: what it is made of, and what a user does with it."""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfgan_mnist.models import inputs, networks, replicas
from tfgan_mnist.models import latents as latent_space

INFERENCE_BATCH = 500  # images per call of a network; 500 of 28x28 keep activations under 100 MB


class DiscriminatorOutput(NamedTuple):
    """Logits (B,) float32 and, with a class head, class logits (B, K)."""

    logits: tf.Tensor
    class_logits: tf.Tensor | None = None


class AdversarialModel(keras.Model):
    """A generator, a discriminator, and the average of the generator that samples come from.

    Subclasses define `default_generator(image_shape)` and `default_discriminator(image_shape)`.

    Inference of any kind uses `averaged_generator`, a network that holds a moving average of the
    generator's weights (Yazici et al. 2018, "The Unusual Effectiveness of Averaging in GAN
    Training", arXiv:1806.04498). Training moves it; give other first weights to the constructor.

    Args:
      generator: Functional model, latents (B, Z) [, labels (B,) int32] -> images (B, H, W, C) in
        [-1, 1]. Default: the recipe's.
      discriminator: Functional model, images [, labels] -> logits (B, 1) [, class logits (B, K)].
        Default: the recipe's.
      image_shape: (H, W, C) of default networks. Default: that of the other network, or 28x28x1.
      packing: so many images are joined along the channels before the discriminator, whose images
        are (H, W, C * packing) then (Lin et al. 2018, "PacGAN", arXiv:1712.04086).
      ema: decay of the moving average once it is warmed up; 0: the average is the last weights.
      seed: determines the first weights of default networks and, together with `global_step`,
        every latent that training draws.

    Raises:
      ValueError: the networks do not fit each other, or the discriminator does not end in logits.
    """

    num_classes: int | None = None  # of a conditional model

    def __init__(
        self,
        generator: keras.Model | None = None,
        discriminator: keras.Model | None = None,
        *,
        image_shape: Sequence[int] | None = None,
        packing: int = 1,
        ema: float = 0.998,
        seed: int = 0,
        name: str | None = None,
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        if not 0 <= ema < 1:
            raise ValueError(f"ema: expected 0 <= ema < 1; received {ema}")
        if packing < 1 or (packing > 1 and self.num_classes is not None):
            raise ValueError(
                f"packing: expected >= 1, and 1 for a conditional model; received {packing}"
            )
        if image_shape is None:
            image_shape = networks.image_shape_of(generator, discriminator, packing)
        seen_shape = networks.packed_shape(image_shape, packing)
        with networks.seeded(seed):
            self.generator = generator or self.default_generator(image_shape)
            self.discriminator = discriminator or self.default_discriminator(seen_shape)
            self.averaged_generator = networks.clone(self.generator)
        self.averaged_generator.trainable = False
        self.latent_dim = self.generator.inputs[0].shape[-1]
        self.image_shape = tuple(image_shape)  # (height, width, channels)
        networks.check(
            self.generator, self.discriminator, self.image_shape, seen_shape, self.num_classes
        )
        self.packing = packing
        self.ema = ema
        self.seed = seed
        # Training steps so far, part of the model's state: a resumed run draws other latents.
        self.global_step = self.add_weight(
            name="global_step", shape=(), dtype="int64", initializer="zeros", trainable=False
        )
        # The networks are built. Without this flag `fit` tries a symbolic build on real images.
        self.built = True

    @property
    def steps_done(self) -> int:
        """`global_step` as a Python number."""
        return int(self.global_step.numpy())

    # --- The two verbs of the training step ------------------------------------------------------

    def generate(self, latents, labels=None, training: bool = False):
        """latents (B, Z), labels (B,) int32 or None -> images (B, H, W, C) float32 in [-1, 1].

        By the generator in training, by its average otherwise.
        """
        network = self.generator if training else self.averaged_generator
        return network(latents if labels is None else [latents, labels], training=training)

    def discriminate(self, images, labels=None, training: bool = False) -> DiscriminatorOutput:
        """images (B, H, W, C * packing) in [-1, 1], labels (B,) int32 or None -> logits."""
        given = images if labels is None else [images, labels]
        logits, *class_logits = tf.nest.flatten(self.discriminator(given, training=training))
        return DiscriminatorOutput(tf.squeeze(logits, axis=-1), *class_logits)

    def packed(self, images):
        """images (B, H, W, C) -> (ceil(B / packing), H, W, C * packing): neighbours are joined.

        A batch that `packing` does not divide is filled up with its first images.
        """
        if self.packing == 1:
            return images
        num = replicas.num_rows(images)
        if not isinstance(num, int) or num % self.packing:
            rows = tf.range(-(-num // self.packing) * self.packing) % num
            images = tf.gather(images, rows)
        return tf.concat([images[i :: self.packing] for i in range(self.packing)], axis=-1)

    def class_loss(self, output: DiscriminatorOutput, labels):
        """Cross-entropy (B,) of D's class head, L_C of Odena et al. 2016, equation 3; 0 without it.

        D learns it from real images alone: generated ones may not be of their classes.
        """
        if output.class_logits is None:
            return tf.zeros_like(output.logits)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, output.class_logits)

    def call(self, inputs, training: bool = False):
        """Generates images from latents (B, Z), or from (latents, labels)."""
        latents, labels = inputs if isinstance(inputs, (tuple, list)) else (inputs, None)
        return self.generate(latents, labels, training=training)

    # --- Inference -------------------------------------------------------------------------------

    def latents(self, num: int, seed: int = 0) -> np.ndarray:
        """N(0, 1) latents (num, Z) float32; row i is a function of (seed, i) only."""
        return latent_space.draw(num, self.latent_dim, seed)

    def labels(self, num: int) -> np.ndarray | None:
        """Labels (num,) int32, each class in turn; None where there are no classes."""
        if self.num_classes is None:
            return None
        return np.arange(num, dtype=np.int32) % self.num_classes

    def sample(self, latents, labels=None) -> np.ndarray:
        """Images (N, H, W, C) float32 in [-1, 1].

        Args:
          latents: (N, Z), or a number N of images, whose latents are `self.latents(N)`.
          labels: (N,) integers, for conditional models. With a number N the default is each class
            in turn.

        Raises:
          ValueError: latents of another width, or labels missing, in excess or out of range.
        """
        if isinstance(latents, int):
            labels = self.labels(latents) if labels is None else labels
            latents = self.latents(latents)
        latents = np.asarray(latents, np.float32)
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim:
            raise ValueError(
                f"latents: expected shape (N, {self.latent_dim}); received {latents.shape}"
            )
        return self._in_batches(self._sample_batch, latents, labels)

    def logits(self, images, labels=None) -> np.ndarray:
        """The discriminator's logits (N,) float32, in inference mode; of packs, one for each image.

        Args:
          images: (N, H, W, C) float32 in [-1, 1], or integers as pixels in [0, 255].
          labels: (N,) integers, for conditional models.
        """
        return self._in_batches(self._logits_batch, np.asarray(images), labels)

    def _in_batches(self, function, values, labels) -> np.ndarray:
        labels = inputs.check_labels(labels, len(values), self.num_classes)
        outputs = np.empty(0)
        for first in range(0, max(len(values), 1), INFERENCE_BATCH):
            rows = slice(first, first + INFERENCE_BATCH)
            some = function(values[rows], None if labels is None else labels[rows]).numpy()
            if first == 0:  # one array from the beginning: parts would take as much again
                outputs = np.empty((len(values), *some.shape[1:]), some.dtype)
            outputs[rows] = some
        return outputs

    @tf.function(reduce_retracing=True)
    def _sample_batch(self, latents, labels):
        return self.generate(latents, labels, training=False)

    @tf.function(reduce_retracing=True)
    def _logits_batch(self, images, labels):
        images, labels = inputs.as_batch((images, labels), self.image_shape, self.num_classes)
        logits = self.discriminate(self.packed(images), labels, training=False).logits
        return tf.repeat(logits, self.packing)[: tf.shape(images)[0]]

    # --- Keras's interface -----------------------------------------------------------------------

    def fit(self, x=None, y=None, *args, **kwargs):
        """`keras.Model.fit`; see `inputs.as_batch` for what `x` and `y` may be.

        Raises:
          ValueError: images or labels of another kind, before the first step.
        """
        inputs.check_values(x, y, self.image_shape, self.num_classes)
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x=None, y=None, *args, return_dict: bool = True, **kwargs):
        """`keras.Model.evaluate`, on what `fit` takes; by default with names: {"d_loss": ...}."""
        inputs.check_values(x, y, self.image_shape, self.num_classes)
        return super().evaluate(x, y, *args, return_dict=return_dict, **kwargs)

    def export(self, filepath, *args, **kwargs) -> None:
        """`keras.Model.export` of the averaged generator, without a server's signatures."""
        self.averaged_generator.export(filepath, *args, **kwargs)

    def train_on_batch(self, x, y=None, *args, **kwargs):
        """`keras.Model.train_on_batch`, on what `fit` takes."""
        inputs.check_values(x, y, self.image_shape, self.num_classes)
        return super().train_on_batch(x, y, *args, **kwargs)

    def test_on_batch(self, x, y=None, *args, **kwargs):
        """`keras.Model.test_on_batch`, on what `fit` takes."""
        inputs.check_values(x, y, self.image_shape, self.num_classes)
        return super().test_on_batch(x, y, *args, **kwargs)

    def get_config(self) -> dict:
        return {
            "name": self.name,
            "generator": keras.saving.serialize_keras_object(self.generator),
            "discriminator": keras.saving.serialize_keras_object(self.discriminator),
            "packing": self.packing,
            "ema": self.ema,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict) -> "AdversarialModel":
        return cls(**keras.saving.deserialize_keras_object(config))
