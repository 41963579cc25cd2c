"""The training step, written once, and the multilayer-perceptron GAN.

Goodfellow et al. 2014, "Generative Adversarial Nets", arXiv:1406.2661.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfgan_mnist import latents as latent_space
from tfgan_mnist import losses
from tfgan_mnist.config import NEEDS, Config, resolve
from tfgan_mnist.models import guard
from tfgan_mnist.models.layers import BatchNormalization, Dropout, normalised
from tfgan_mnist.models.optimizers import Adam

SAMPLE_BATCH = 500  # images per call in `sample`; 500 of 28x28 keep activations under 100 MB


def mlp_generator(
    image_shape: Sequence[int] = (28, 28, 1),
    latent_dim: int = Config.latent_dim,
    hidden_widths: Sequence[int] = Config.g_hidden_widths,
    batch_norm: bool = Config.g_batch_norm,
    sync_batch_norm: bool = False,
) -> keras.Model:
    """latents (B, latent_dim) -> ReLU layers -> tanh images (B, H, W, C) in [-1, 1], float32.

    A tanh over [-1, 1] is the paper's sigmoid over [0, 1] with its logit halved.
    `sync_batch_norm` takes batch norm's statistics over all replicas.
    """
    x = latents = keras.Input((latent_dim,), name="latents")
    for width in hidden_widths:
        x = layers.Dense(width, use_bias=not batch_norm)(x)
        if batch_norm:
            # A ReLU and a Dense follow: no scale.
            x = BatchNormalization(scale=False, synchronized=sync_batch_norm)(x)
        x = layers.ReLU()(x)
    x = layers.Dense(int(np.prod(image_shape)))(x)
    x = layers.Reshape(tuple(image_shape))(x)
    # float32 whatever the policy: tanh saturates, and half precision would quantise the images.
    images = layers.Activation("tanh", dtype="float32", name="images")(x)
    return keras.Model(latents, images, name="generator")


def mlp_discriminator(
    image_shape: Sequence[int] = (28, 28, 1),
    hidden_widths: Sequence[int] = Config.d_hidden_widths,
    batch_norm: bool = Config.d_batch_norm,
    dropout: float = Config.d_dropout,
    spectral_norm: bool = Config.spectral_norm,
    sync_batch_norm: bool = False,
) -> keras.Model:
    """images (B, H, W, C) in [-1, 1] -> LeakyReLU layers -> logits (B, 1), float32.

    The paper's hidden layers are maxout with dropout; a leaky ReLU is today's plain stand-in.
    """
    images = keras.Input(tuple(image_shape), name="images")
    x = layers.Flatten()(images)
    for width in hidden_widths:
        x = normalised(layers.Dense(width, use_bias=not batch_norm), spectral_norm)(x)
        if batch_norm:
            x = BatchNormalization(synchronized=sync_batch_norm)(x)
        x = layers.LeakyReLU(0.2)(x)
        if dropout:
            x = Dropout(dropout)(x)
    logits = normalised(layers.Dense(1, dtype="float32"), spectral_norm, name="logits")(x)
    return keras.Model(images, logits, name="discriminator")


def synchronises(settings: Config) -> bool:
    """Whether batch norm's statistics are to be taken over replicas, of which there are several.

    With one replica it would only be slower: two more passes over the activations.
    """
    return settings.sync_batch_norm and tf.distribute.get_strategy().num_replicas_in_sync > 1


class RunningMeans(keras.metrics.Metric):
    """Means since the epoch began, one for each of `keys`.

    `keras.metrics.Mean` keeps apart what each replica has seen, so that all workers are needed to
    read it or save it. Here all hold the same: sums are taken over replicas as they come.
    """

    def __init__(self, keys: Sequence[str], name: str = "means"):
        super().__init__(name=name)
        self.keys = tuple(keys)
        # Of each key the total and the count: what a `Mean` of each has, and checkpoints hold.
        self.sums = [
            keras.Variable(0.0, dtype="float32", trainable=False) for _ in range(2 * len(keys))
        ]

    def update_state(self, values: dict, weights: dict | None = None) -> None:
        """Adds this replica's values of some keys: (B,) per example, or () per step.

        Args:
          values: by key.
          weights: 0.0 for keys whose values are to be left out, whatever they are, else 1.0.
        """
        own = []
        for key in self.keys:
            value = tf.cast(values.get(key, tf.zeros([0])), tf.float32)
            total, count = tf.reduce_sum(value), tf.cast(tf.size(value), tf.float32)
            if weights and key in weights:
                # Not a product: 0 times NaN is NaN.
                total, count = tf.where(weights[key] > 0, total, 0.0), weights[key] * count
            own += [total, count]
        context = tf.distribute.get_replica_context()
        # In one message, whose latency is what it costs.
        over_replicas = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack(own))
        for variable, number in zip(self.sums, tf.unstack(over_replicas)):
            variable.assign_add(number)

    def result(self) -> dict:
        """Key -> mean; 0 for keys without values."""
        pairs = zip(self.keys, self.sums[::2], self.sums[1::2])
        return {key: tf.math.divide_no_nan(total.value, count.value) for key, total, count in pairs}

    def total(self, key: str) -> float:
        """The sum of the values of a key."""
        return float(keras.ops.convert_to_numpy(self.sums[2 * self.keys.index(key)]))


class DiscriminatorOutput(NamedTuple):
    """What D says of a batch: logits (B,) float32 and, with a class head, class logits (B, K)."""

    logits: tf.Tensor
    class_logits: tf.Tensor | None = None


@keras.saving.register_keras_serializable("tfgan_mnist")
class GAN(keras.Model):
    """Two networks and the step that trains them against each other.

    Subclasses bring other networks, and say through `generate` and `discriminate` what the networks
    are fed; the step below speaks only these two verbs and serves them all.

    ```python
    model = GAN().compile(loss="non_saturating")
    model.fit(images, epochs=5, batch_size=64)  # float32 (N, 28, 28, 1) in [-1, 1]
    digits = model.sample(model.latents(25))    # float32 (25, 28, 28, 1) in [-1, 1]
    ```

    Args:
      generator: Functional model, latents (B, Z) [, labels (B,) int32] -> images (B, H, W, C) in
        [-1, 1]. Default: the recipe's, for 28x28x1 images of 10 classes.
      discriminator: Functional model, images [, labels] -> logits (B, 1) [, class logits (B, K)].
        Default: likewise.
      seed: together with `global_step` it determines every latent that training draws.
    """

    recipe = "gan"  # its name in the configuration

    def __init__(self, generator=None, discriminator=None, *, seed: int = 0, name=None, **kwargs):
        super().__init__(name=name, **kwargs)
        if generator is None or discriminator is None:
            settings = resolve({"model": self.recipe})
            default_generator, default_discriminator = self.networks(settings, (28, 28, 1), 10)
        self.generator = generator or default_generator
        self.discriminator = discriminator or default_discriminator
        self.seed = seed
        # Training steps so far. Part of the model's state: a resumed run draws on where it stopped.
        self.global_step = self.add_weight(
            name="global_step", shape=(), dtype="int64", initializer="zeros", trainable=False
        )
        self._check_shapes()
        # The networks are built; without this flag `fit` tries a symbolic build on real images.
        self.built = True

    @classmethod
    def networks(
        cls, settings: Config, image_shape: Sequence[int], num_classes: int
    ) -> tuple[keras.Model, keras.Model]:
        """The generator and the discriminator that a configuration describes."""
        generator = mlp_generator(
            image_shape,
            settings.latent_dim,
            settings.g_hidden_widths,
            settings.g_batch_norm,
            synchronises(settings),
        )
        discriminator = mlp_discriminator(
            image_shape,
            settings.d_hidden_widths,
            settings.d_batch_norm,
            settings.d_dropout,
            settings.spectral_norm,
            synchronises(settings),
        )
        return generator, discriminator

    # --- What the networks are -------------------------------------------------------------------

    @property
    def latent_dim(self) -> int:
        return self.generator.inputs[0].shape[-1]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return tuple(self.generator.outputs[0].shape[1:])

    @property
    def num_classes(self) -> int | None:
        """How many labels the networks know; None when they take none."""
        return None

    @property
    def steps_done(self) -> int:
        """`global_step` as a Python number."""
        return _number(self.global_step)

    def _check_shapes(self) -> None:
        expected = tuple(self.discriminator.inputs[0].shape[1:])
        if self.image_shape != expected:
            raise ValueError(
                f"The discriminator expects images of shape {expected}; "
                f"the generator makes {self.image_shape}."
            )

    # --- The two verbs of the step ---------------------------------------------------------------

    def generate(self, latents, labels=None, training: bool = False):
        """latents (B, Z), labels (B,) int32 or None -> images (B, H, W, C) float32 in [-1, 1]."""
        return self.generator(latents, training=training)

    def discriminate(self, images, labels=None, training: bool = False) -> DiscriminatorOutput:
        """images (B, H, W, C) in [-1, 1], labels (B,) int32 or None -> `DiscriminatorOutput`."""
        return DiscriminatorOutput(
            tf.squeeze(self.discriminator(images, training=training), axis=-1)
        )

    def class_loss(self, verdict: DiscriminatorOutput, labels):
        """Loss (B,) of D's class head where a model has one."""
        return tf.zeros_like(verdict.logits)

    def call(self, inputs, training: bool = False):
        """Generates: `inputs` are latents (B, Z), or (latents, labels)."""
        latents, labels = inputs if isinstance(inputs, (tuple, list)) else (inputs, None)
        return self.generate(latents, labels, training=training)

    # --- Training --------------------------------------------------------------------------------

    def compile(
        self,
        d_optimizer=None,
        g_optimizer=None,
        loss: str = "non_saturating",
        *,
        discriminator_steps: int = 1,
        label_smoothing: float = 0.0,
        r1: float = 0.0,
        r2: float = 0.0,
        gradient_penalty: float | None = None,
        jit_compile: bool = False,
        **kwargs,
    ) -> "GAN":
        """Sets how the two networks learn, and returns the model.

        Args:
          d_optimizer: Keras optimizer of the discriminator. Default: the recipe's Adam, with its
            first learning rate for all steps.
          g_optimizer: likewise of the generator. When its `use_ema` is on, `sample` and exports
            use the moving averages of the weights.
          loss: a key of `losses.OBJECTIVES`.
          discriminator_steps: k of Algorithm 1, discriminator updates per generator update. The
            batch is split into k equal parts, one for each.
          label_smoothing: lowers D's target for real images from 1 (Salimans et al. 2016).
          r1: gamma; adds gamma / 2 |dD/dx|^2 at real images to D's loss (Mescheder et al. 2018).
          r2: the same at generated images.
          gradient_penalty: weight of (|dD/dx| - 1)^2 between real and generated images (Gulrajani
            et al. 2017). Default: 10 for "wasserstein", else 0.
          jit_compile: compile the step with XLA; `runtime.use_xla` tells where it pays.
          **kwargs: `run_eagerly` and `steps_per_execution` of `keras.Model.compile`.

        Raises:
          ValueError: unknown loss, a value out of its range, or a penalty on a discriminator with
            batch norm.
        """
        if discriminator_steps < 1:
            raise ValueError(f"discriminator_steps: expected >= 1; received {discriminator_steps}")
        for key, value in {"r1": r1, "r2": r2, "gradient_penalty": gradient_penalty or 0}.items():
            if value < 0:
                raise ValueError(f"{key}: expected >= 0; received {value}")
        if gradient_penalty is None:
            gradient_penalty = NEEDS.get(loss, {}).get("gradient_penalty", 0.0)
        penalised = r1 or r2 or gradient_penalty
        d_layers = self.discriminator.layers
        if penalised and any(isinstance(layer, layers.BatchNormalization) for layer in d_layers):
            # Penalties are gradients of each image's own logit, and batch norm mixes images.
            raise ValueError(
                "r1, r2 and gradient_penalty expect a discriminator without batch norm "
                "(batch_norm=False)"
            )
        # No optimizer for Keras: it would create an RMSprop that nothing uses.
        super().compile(optimizer=None, jit_compile=jit_compile, **kwargs)
        self.objective = losses.get(loss, label_smoothing)
        self.discriminator_steps = discriminator_steps
        self.r1 = r1
        self.r2 = r2
        self.gradient_penalty = gradient_penalty
        settings = resolve({"model": self.recipe})
        betas = {"beta_1": settings.beta_1, "beta_2": settings.beta_2}
        d_optimizer = d_optimizer or Adam(settings.d_learning_rate, **betas)
        g_optimizer = g_optimizer or Adam(settings.g_learning_rate, **betas)
        self.d_optimizer = self._prepare(d_optimizer, self.discriminator)
        self.g_optimizer = self._prepare(g_optimizer, self.generator)
        self.means = RunningMeans(self.log_keys)
        self._compile_arguments = {
            "loss": loss,
            "discriminator_steps": discriminator_steps,
            "label_smoothing": label_smoothing,
            "r1": r1,
            "r2": r2,
            "gradient_penalty": gradient_penalty,
            "jit_compile": jit_compile,
            **kwargs,
        }
        return self

    @property
    def jit_compile(self) -> bool:
        """Whether XLA compiles the step: what `compile` was told, if all layers can be compiled.

        Keras's own property says no as well where TensorFlow's operations are made deterministic.
        TensorFlow then asks XLA for deterministic ones too (`xla_gpu_deterministic_ops`), and a GPU
        needs XLA: see `runtime.use_xla`.
        """
        return bool(self._jit_compile)

    @jit_compile.setter
    def jit_compile(self, value: bool) -> None:
        parts = [*self.generator.layers, *self.discriminator.layers]
        unable = sorted({type(layer).__name__ for layer in parts if not layer.supports_jit})
        if value and unable:
            warnings.warn(f"not compiled by XLA, which has no {', '.join(unable)}", stacklevel=2)
        self._jit_compile = value and not unable

    @staticmethod
    def _prepare(optimizer, network: keras.Model) -> keras.optimizers.Optimizer:
        """`optimizer`, wrapped for loss scaling when `network` computes in float16, and built."""
        optimizer = keras.optimizers.get(optimizer)
        # float16 gradients under 6e-8 vanish. Keras would scale only `model.optimizer`.
        half = any(layer.dtype_policy.compute_dtype == "float16" for layer in network.layers)
        if half and not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        # Built now, so that its slots exist before a checkpoint is restored into them.
        optimizer.build(network.trainable_variables)
        return optimizer

    @property
    def scales_losses(self) -> bool:
        """Whether gradients may overflow without more ado: float16's loss scale is halved then."""
        optimizers = (self.d_optimizer, self.g_optimizer)
        return any(isinstance(o, keras.optimizers.LossScaleOptimizer) for o in optimizers)

    @property
    def skipped_updates(self) -> int:
        """Updates of D and G that were skipped, as their gradients were not finite."""
        due = self.steps_done * (self.discriminator_steps + 1)
        return due - _number(self.d_optimizer.iterations) - _number(self.g_optimizer.iterations)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None) -> None:
        """Nothing: all is built by `__init__` and `compile`.

        Under a strategy Keras takes a batch from the data for it, which training then never sees.
        """

    @property
    def log_keys(self) -> tuple[str, ...]:
        """Names of what a step reports.

        Accuracies are shares of the batch in [0, 1]; gradient norms are Euclidean, over all weights
        of a network, before the optimizer. `skipped` is the share of the updates that were not
        made, since gradients were not finite; the other values leave these updates out.
        """
        return (
            "d_loss",
            "g_loss",
            "d_real_accuracy",
            "d_fake_accuracy",
            "d_gradient_norm",
            "g_gradient_norm",
            "skipped",
        )

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self.means] if self.compiled else []

    def train_step(self, data) -> dict:
        """Algorithm 1: k updates of D, each on its own part of the batch, then one of G.

        The fakes of D's last update serve G's: one forward pass of G for both. G then meets the
        discriminator that has already learnt from these fakes.

        An update whose loss or gradients are not finite is left out, see `guard`. Steps are counted
        on, so that the next one draws other latents.
        """
        parts, made = self.discriminator_steps, []
        for part, (reals, labels) in enumerate(self._split(self._unpack(data), parts)):
            draw = self.global_step * parts + part
            latents = self._draw_latents(tf.shape(reals)[0], draw)
            before = self._written_in_passes()
            with tf.GradientTape() as g_tape:
                fakes = self.generate(latents, labels, training=True)
            d_logs, d_made = self._update_discriminator(
                reals, tf.stop_gradient(fakes), labels, draw, before
            )
            made.append(d_made)
        g_logs, g_made = self._update_generator(g_tape, fakes, reals, labels)
        made.append(g_made)
        self.global_step.assign_add(1)
        return self._track(
            d_logs | g_logs | {"skipped": 1.0 - tf.stack(made)},
            dict.fromkeys(d_logs, d_made) | dict.fromkeys(g_logs, g_made),
        )

    def _written_in_passes(self) -> list:
        """The present values of what forward passes write."""
        written = guard.written_in_passes(self.generator, self.discriminator)
        return [tf.identity(variable.value) for variable in written]

    def _update_discriminator(self, reals, fakes, labels, draw, before) -> tuple:
        """One update of D on images (B, H, W, C) and labels (B,) or None.

        Args:
          before: `_written_in_passes` before the fakes were made.

        Returns:
          Logs, (B,) per example, and 1.0 if the update was made, else 0.0.
        """
        with tf.GradientTape() as tape:
            # Two passes: batch norm must not mix the statistics of real and fake images. One pass
            # with batch norm apart is slower: a step of dcgan 32 ms instead of 30 (2 cores).
            real = self.discriminate(reals, labels, training=True)
            fake = self.discriminate(fakes, labels, training=True)
            per_example = (
                self.objective.discriminator(real.logits, fake.logits)
                + self.class_loss(real, labels)
                + self.class_loss(fake, labels)
                + self._penalty(reals, fakes, labels, draw)
            )
            scaled = self.d_optimizer.scale_loss(self._share_of_global_mean(per_example))
        variables = self.discriminator.trainable_variables
        gradients = tape.gradient(scaled, variables)
        norm = _norm(gradients, self.d_optimizer)
        logs = {"d_loss": per_example, "d_gradient_norm": norm}
        made = self._update(self.d_optimizer, gradients, variables, scaled, norm, before)
        return logs | self._accuracies(real, fake, labels), made

    def _update_generator(self, g_tape, fakes, reals, labels) -> tuple:
        """One update of G, whose forward pass to `fakes` is on `g_tape`; returns as that of D."""
        before = self._written_in_passes()
        with tf.GradientTape() as tape:
            tape.watch(fakes)
            fake = self.discriminate(fakes, labels, training=True)
            real = None
            if self.objective.paired:
                real = self.discriminate(reals, labels, training=True).logits
            per_example = self.objective.generator(fake.logits, real)
            per_example += self.class_loss(fake, labels)
            scaled = self.g_optimizer.scale_loss(self._share_of_global_mean(per_example))
        # The chain rule by hand: from the loss to the fakes here, from the fakes into G there. D's
        # weights are not differentiated at all.
        upstream = tape.gradient(scaled, fakes)
        variables = self.generator.trainable_variables
        gradients = g_tape.gradient(fakes, variables, output_gradients=upstream)
        norm = _norm(gradients, self.g_optimizer)
        logs = {"g_loss": per_example, "g_gradient_norm": norm}
        made = self._update(self.g_optimizer, gradients, variables, scaled, norm, before)
        return logs, made

    def _update(self, optimizer, gradients, variables, loss, norm, before):
        written = guard.written_in_passes(self.generator, self.discriminator)
        return guard.update(optimizer, gradients, variables, loss, norm, written, before)

    def _penalty(self, reals, fakes, labels, draw):
        """The regularisers of D's loss, (B,)."""

        def logits_of(images):
            return self.discriminate(images, labels, training=True).logits

        penalty = tf.zeros([tf.shape(reals)[0]])
        if self.r1:
            penalty += self.r1 / 2 * losses.squared_gradient_norm(logits_of, reals)
        if self.r2:
            penalty += self.r2 / 2 * losses.squared_gradient_norm(logits_of, fakes)
        if self.gradient_penalty:
            # The seed's complement keeps this stream apart from the latents', whose seeds are >= 0.
            alpha = self._draw(tf.random.stateless_uniform, tf.shape(reals)[0], 1, ~self.seed, draw)
            alpha = tf.reshape(alpha, [-1, 1, 1, 1])
            penalty += self.gradient_penalty * losses.gradient_penalty(
                logits_of, reals, fakes, alpha
            )
        return penalty

    def test_step(self, data) -> dict:
        """D on images it was not trained on, and on fakes, in inference mode.

        The losses are the objective's alone, without penalties and class loss. Every batch meets
        the same fakes, which training never draws: samples, of `CDCGAN` at its temperature.
        """
        reals, labels = self._unpack(data)
        latents = self._draw_latents(tf.shape(reals)[0], -1)
        fakes = self.generate(latents, labels, training=False)
        real = self.discriminate(reals, labels, training=False)
        fake = self.discriminate(fakes, labels, training=False)
        logs = {
            "d_loss": self.objective.discriminator(real.logits, fake.logits),
            "g_loss": self.objective.generator(fake.logits, real.logits),
        }
        return self._track(logs | self._accuracies(real, fake, labels))

    def _accuracies(self, real: DiscriminatorOutput, fake: DiscriminatorOutput, labels) -> dict:
        """(B,) each: where D is right about real images and about generated ones."""
        on_real, on_fake = losses.accuracies(self.objective, real.logits, fake.logits)
        return {"d_real_accuracy": on_real, "d_fake_accuracy": on_fake}

    @staticmethod
    def _share_of_global_mean(per_example):
        """This replica's share of the global batch's mean; gradients are summed over replicas."""
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        return tf.reduce_mean(per_example) / replicas

    def _draw_latents(self, num, draw):
        """N(0, 1) latents (num, Z) of this replica."""
        return self._draw(tf.random.stateless_normal, num, self.latent_dim, self.seed, draw)

    @staticmethod
    def _draw(distribution, num, width: int, seed: int, draw):
        """(num, width) random numbers of this replica, a function of (seed, draw, replica).

        Those of the global batch are drawn everywhere and each replica keeps its rows, so that the
        number of replicas does not change what is drawn.
        """
        context = tf.distribute.get_replica_context()
        numbers = distribution(
            [num * context.num_replicas_in_sync, width],
            seed=tf.stack([tf.constant(seed, tf.int64), tf.cast(draw, tf.int64)]),
            alg="philox",  # the default depends on the device, and on XLA
        )
        first = num * context.replica_id_in_sync_group
        return numbers[first : first + num]

    def _track(self, logs: dict, weights: dict | None = None) -> dict:
        """Adds values, (B,) per example or () per step, to the running means; returns the means."""
        self.means.update_state(logs, weights)
        means = {key: mean for key, mean in self.means.result().items() if key in logs}
        if isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
            # Keras takes the mean over axis 0 of what workers return, and a scalar has none
            # (keras-team/keras#20585).
            return {key: mean[None] for key, mean in means.items()}
        return means

    def _unpack(self, data) -> tuple:
        """`fit`'s batch -> (images, labels or None)."""
        images, labels, _ = keras.utils.unpack_x_y_sample_weight(data)
        return images, labels

    @staticmethod
    def _split(batch: tuple, parts: int) -> list[tuple]:
        """A batch (images, labels or None) in equal parts of the same form."""
        images, labels = batch
        if parts == 1:
            return [batch]
        tf.debugging.assert_equal(
            tf.shape(images)[0] % parts,
            0,
            f"discriminator_steps={parts}: expected batches of a multiple of {parts} images",
        )
        if labels is None:
            return [(part, None) for part in tf.split(images, parts)]
        return list(zip(tf.split(images, parts), tf.split(labels, parts), strict=True))

    # --- Sampling --------------------------------------------------------------------------------

    def latents(self, num: int, seed: int = 0) -> np.ndarray:
        """N(0, 1) latents (num, Z) float32; row i is a function of (seed, i) only."""
        return latent_space.draw(num, self.latent_dim, seed)

    def sample(self, latents, labels=None) -> np.ndarray:
        """Images (N, H, W, C) float32 in [-1, 1] of latents (N, Z) and, where used, labels (N,).

        In inference mode, with the moving averages of the weights when the optimizer keeps them.

        Raises:
          ValueError: latents of another width, or labels missing, in excess or out of range.
        """
        latents = np.asarray(latents, np.float32)
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim:
            raise ValueError(
                f"latents: expected shape (N, {self.latent_dim}); received {latents.shape}"
            )
        labels = self._check_labels(labels, len(latents))
        images = np.empty((len(latents), *self.image_shape), np.float32)
        with self.averaged_weights():
            for first in range(0, len(latents), SAMPLE_BATCH):
                rows = slice(first, first + SAMPLE_BATCH)
                part = None if labels is None else labels[rows]
                images[rows] = self._sample_batch(latents[rows], part)
        return images

    def logits(self, images, labels=None) -> np.ndarray:
        """What the discriminator says, in inference mode: > 0 is "real" where `zero_decides`.

        Args:
          images: (N, H, W, C) float32 in [-1, 1].
          labels: (N,) integers, for conditional models.

        Returns:
          float32 (N,).
        """
        labels = self._check_labels(labels, len(images))
        logits = np.empty(len(images), np.float32)
        for first in range(0, len(images), SAMPLE_BATCH):
            rows = slice(first, first + SAMPLE_BATCH)
            part = None if labels is None else labels[rows]
            logits[rows] = self._judge_batch(images[rows], part)
        return logits

    def _check_labels(self, labels, num: int) -> np.ndarray | None:
        if self.num_classes is None:
            if labels is not None:
                raise ValueError(f"labels: {type(self).__name__} is not conditional and takes none")
            return None
        if labels is None:
            raise ValueError(f"labels: expected {num} integers in 0..{self.num_classes - 1}")
        labels = np.asarray(labels)
        if labels.shape != (num,) or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"labels: expected integers of shape ({num},); "
                f"received {labels.dtype} of shape {labels.shape}"
            )
        # Checked here, since a lookup of -1 wraps silently and a one-hot of 10 is all zeros.
        if num and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(
                f"labels: expected 0..{self.num_classes - 1}; "
                f"received {labels.min()}..{labels.max()}"
            )
        return labels.astype(np.int32)

    @tf.function(reduce_retracing=True)
    def _sample_batch(self, latents, labels):
        return self.generate(latents, labels, training=False)

    @tf.function(reduce_retracing=True)
    def _judge_batch(self, images, labels):
        return self.discriminate(images, labels, training=False).logits

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the generator holds the moving averages of its weights, if there are any.

        Averages make better samples than the last weights: Yazici et al. 2018, "The Unusual
        Effectiveness of Averaging in GAN Training", arXiv:1806.04498. Batch norm's statistics are
        moving averages already and stay as they are.
        """
        optimizer = getattr(self, "g_optimizer", None)
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            optimizer = optimizer.inner_optimizer
        if optimizer is None or not optimizer.use_ema or not _number(optimizer.iterations):
            yield
            return
        variables = self.generator.trainable_variables
        raw = [variable.numpy() for variable in variables]
        optimizer.finalize_variable_values(variables)
        try:
            yield
        finally:
            for variable, value in zip(variables, raw):
                variable.assign(value)

    # --- Saving ----------------------------------------------------------------------------------

    def training_state(self) -> dict[str, list]:
        """Every variable that training reads or writes, by owner: what a checkpoint has to hold.

        Networks include batch norm's statistics and dropout's seeds; optimizers include slots,
        moving averages and loss scales.
        """
        return {
            "global_step": [self.global_step],
            "generator": self.generator.variables,
            "discriminator": self.discriminator.variables,
            "g_optimizer": self.g_optimizer.variables,
            "d_optimizer": self.d_optimizer.variables,
            "metrics": [v for tracker in self.metrics for v in tracker.variables],
        }

    def get_config(self) -> dict:
        return {
            "name": self.name,
            "generator": keras.saving.serialize_keras_object(self.generator),
            "discriminator": keras.saving.serialize_keras_object(self.discriminator),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict) -> "GAN":
        networks = {
            key: keras.saving.deserialize_keras_object(config[key])
            for key in ("generator", "discriminator")
        }
        return cls(**(config | networks))

    def get_compile_config(self) -> dict | None:
        if not self.compiled:
            return None
        return self._compile_arguments | {
            "d_optimizer": keras.saving.serialize_keras_object(self.d_optimizer),
            "g_optimizer": keras.saving.serialize_keras_object(self.g_optimizer),
        }

    def compile_from_config(self, config: dict) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))


def _norm(gradients: list, optimizer: keras.optimizers.Optimizer):
    """Norm () of the gradients of a scaled loss, as if it had not been scaled.

    To be called before they are applied, which may change the scale.

    With several replicas each reports that of its own share of the batch.
    """
    replicas = tf.distribute.get_replica_context().num_replicas_in_sync
    scale = optimizer.scale_loss(tf.ones([])) / replicas
    return tf.linalg.global_norm(gradients) / scale


def _number(variable) -> int:
    # By way of NumPy: `int` does not take a variable that is mirrored over replicas.
    return int(keras.ops.convert_to_numpy(variable))
