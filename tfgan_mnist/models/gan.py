"""The training step of every model: Algorithm 1 of the first GAN paper.

Goodfellow et al. 2014, "Generative Adversarial Nets", arXiv:1406.2661.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from tfgan_mnist.models import augment as augmentation
from tfgan_mnist.models import inputs, losses, mlp, networks, optimizers, replicas, rules
from tfgan_mnist.models.base import AdversarialModel, DiscriminatorOutput
from tfgan_mnist.models.optimizers import Adam
from tfgan_mnist.models.running_means import RunningMeans


@keras.saving.register_keras_serializable("tfgan_mnist")
class GAN(AdversarialModel):
    """Two networks and the step that trains them against each other, by default perceptrons.

    The step is written in the verbs `generate` and `discriminate` of `AdversarialModel`, where the
    constructor's arguments are documented, and serves all models.

    ```python
    model = GAN().compile(loss="non_saturating")
    model.fit(images, epochs=5, batch_size=64)  # (N, 28, 28, 1): uint8, or float32 in [-1, 1]
    digits = model.sample(model.latents(25))    # float32 (25, 28, 28, 1) in [-1, 1]
    ```
    """

    # A plain attribute: Keras's property refuses XLA where operations are deterministic, which
    # XLA's are as well (`xla_gpu_deterministic_ops`).
    jit_compile = False
    # The recipe's optimizers: the first learning rates of D and of G, and Adam's beta_1.
    learning_rates = (5e-4, 1e-3)
    beta_1 = 0.5

    def default_generator(self, image_shape: Sequence[int]) -> keras.Model:
        return mlp.mlp_generator(image_shape)

    def default_discriminator(self, image_shape: Sequence[int]) -> keras.Model:
        return mlp.mlp_discriminator(image_shape)

    # --- The step: Algorithm 1 -------------------------------------------------------------------

    def train_step(self, data) -> dict:
        """k updates of D, each on its own part of the batch, then one of G."""
        parts = self._split(inputs.as_batch(data, self.image_shape, self.num_classes))
        for part, (reals, labels) in enumerate(parts):
            draw = self.global_step * len(parts) + part  # number of D's update
            latents = self._draw_latents(replicas.num_rows(reals), draw)
            with tf.GradientTape() as g_tape:
                fakes = self.generate(latents, labels, training=True)
            d_logs = self._update_discriminator(reals, tf.stop_gradient(fakes), labels, draw)
        # The last fakes serve both networks: one forward pass of G.
        g_logs = self._update_generator(g_tape, fakes, reals, labels, draw)
        self._move_average()
        self.global_step.assign_add(1)
        return self._track(d_logs | g_logs)

    def _update_discriminator(self, reals, fakes, labels, draw) -> dict:
        """One update of D on images (B, H, W, C) and labels (B,) or None; returns logs."""
        reals, fakes = self._altered(reals, draw, 0), self._altered(fakes, draw, 1)
        with tf.GradientTape() as tape:
            # Two passes: batch norm must not mix the statistics of real and fake images.
            real = self.discriminate(reals, labels, training=True)
            fake = self.discriminate(fakes, labels, training=True)
            loss = (
                self.objective.discriminator(real.logits, fake.logits)
                + self.class_loss(real, labels)
                + self._penalty(reals, fakes, labels, draw)
            )
            scaled = self.d_optimizer.scale_loss(replicas.share_of_mean(loss))
        weights = self.discriminator.trainable_variables
        norm = self._apply(self.d_optimizer, tape.gradient(scaled, weights), weights)
        logs = {"d_loss": loss, "d_gradient_norm": norm}
        return logs | self._accuracies(real, fake, labels)

    def _update_generator(self, g_tape, fakes, reals, labels, draw) -> dict:
        """One update of G, whose forward pass to `fakes` is on `g_tape`; returns logs."""
        with tf.GradientTape() as tape:
            tape.watch(fakes)
            fake = self.discriminate(self._altered(fakes, draw, 2), labels, training=True)
            real = None
            if self.objective.paired:
                seen = self._altered(reals, draw, 0)
                real = self.discriminate(seen, labels, training=True).logits
            loss = self.objective.generator(fake.logits, real)
            loss += self.class_loss(fake, labels)
            scaled = self.g_optimizer.scale_loss(replicas.share_of_mean(loss))
        # The chain rule in two parts: from the loss to the fakes, and from the fakes into G.
        upstream = tape.gradient(scaled, fakes)
        weights = self.generator.trainable_variables
        gradients = g_tape.gradient(fakes, weights, output_gradients=upstream)
        norm = self._apply(self.g_optimizer, gradients, weights)
        return {"g_loss": loss, "g_gradient_norm": norm}

    @staticmethod
    def _apply(optimizer, gradients, weights):
        """Updates weights by gradients of the scaled loss; returns the norm () without the scale.

        That of this replica's share of the batch.
        """
        if not weights:  # all are frozen
            return tf.zeros([])
        parts = tf.distribute.get_replica_context().num_replicas_in_sync
        scale = optimizer.scale_loss(tf.ones([])) / parts  # before `apply`, which may change it
        norm = tf.linalg.global_norm(gradients) / scale
        optimizer.apply(optimizers.spread_non_finite(gradients), weights)
        return norm

    def _move_average(self) -> None:
        """Moves the averages of what was trained, and copies the rest: batch norm's statistics.

        The decay in step t + 1 is t / (t + 9) as long as that is less than `ema`, so that the
        average is of about the last tenth of the steps and good from the beginning.
        """
        step = tf.cast(self.global_step.value, tf.float32)
        decay = tf.minimum(self.ema, step / (step + 9.0))
        trained = {id(weight) for weight in self.generator.trainable_variables}
        for average, weight in zip(self.averaged_generator.weights, self.generator.weights):
            value = weight.value
            if id(weight) in trained:
                value = decay * average + (1.0 - decay) * weight
            average.assign(value)

    def _split(self, batch: tuple) -> list[tuple]:
        """A batch (images, labels or None) in k equal parts; what is left over is dropped.

        Of a batch with fewer than k images the parts are single ones, the last of them repeated.
        """
        k = self.discriminator_steps
        if k == 1:
            return [batch]
        num = replicas.num_rows(batch[0])
        least, most = (min, max) if isinstance(num, int) else (tf.minimum, tf.maximum)
        size = least(most(num // k, 1), num)
        firsts = [least(part * size, num - size) for part in range(k)]
        images, labels = batch
        return [
            (images[i : i + size], None if labels is None else labels[i : i + size]) for i in firsts
        ]

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
            uniform, num = tf.random.stateless_uniform, replicas.num_rows(reals)
            alpha = tf.reshape(replicas.draw(uniform, num, 1, ~self.seed, draw), [-1, 1, 1, 1])
            norm = losses.gradient_penalty(logits_of, reals, fakes, alpha)
            penalty += self.gradient_penalty * norm
        return penalty

    def _draw_latents(self, num, draw):
        """N(0, 1) latents (num, Z) of this replica."""
        return replicas.draw(tf.random.stateless_normal, num, self.latent_dim, self.seed, draw)

    def _altered(self, images, draw, use: int):
        """Images (B, H, W, C) as D sees them; `use` 0 to 2 of a draw are altered independently."""
        return self.packed(augmentation.alter(images, self.augmentations, self.seed, draw, use))

    # --- What is reported ------------------------------------------------------------------------

    @property
    def log_keys(self) -> tuple[str, ...]:
        """Names of what a step reports.

        Accuracies are shares of the batch in [0, 1]. Gradient norms are Euclidean, over all weights
        of a network, before the optimizer. To these `loss` is added, the sum of the two, which is
        what `keras.callbacks.TerminateOnNaN` looks at.
        """
        accuracies = ("d_real_accuracy", "d_fake_accuracy")
        of_head = ("d_class_accuracy",) if len(self.discriminator.outputs) > 1 else ()
        return ("d_loss", "g_loss", *accuracies, "d_gradient_norm", "g_gradient_norm", *of_head)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self.means] if self.compiled else []

    def test_step(self, data) -> dict:
        """D on images it was not trained on, and on samples, in inference mode.

        The losses are the objective's alone, without penalties and class loss. Every batch is
        compared with the same samples, which training never draws.
        """
        reals, labels = inputs.as_batch(data, self.image_shape, self.num_classes)
        latents = self._draw_latents(replicas.num_rows(reals), -1)
        fakes = self.generate(latents, labels, training=False)
        real = self.discriminate(self.packed(reals), labels, training=False)
        fake = self.discriminate(self.packed(fakes), labels, training=False)
        logs = {
            "d_loss": self.objective.discriminator(real.logits, fake.logits),
            "g_loss": self.objective.generator(fake.logits, real.logits),
        }
        return self._track(logs | self._accuracies(real, fake, labels))

    def _accuracies(self, real: DiscriminatorOutput, fake: DiscriminatorOutput, labels) -> dict:
        """(B,) each: 1.0 where D is right about real images, generated ones, and real classes."""
        on_real, on_fake = losses.accuracies(self.objective, real.logits, fake.logits)
        logs = {"d_real_accuracy": on_real, "d_fake_accuracy": on_fake}
        if real.class_logits is not None:
            classes = tf.argmax(real.class_logits, axis=-1, output_type=labels.dtype)
            logs["d_class_accuracy"] = tf.cast(classes == labels, tf.float32)
        return logs

    def _track(self, logs: dict) -> dict:
        """Adds values, (B,) per example or () per step, to the running means; returns the means."""
        self.means.update_state(logs)
        means = {key: mean for key, mean in self.means.result().items() if key in logs}
        means["loss"] = means["d_loss"] + means["g_loss"]
        if isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
            # Keras averages the workers' logs over axis 0, which a scalar lacks (keras#20585).
            return {key: mean[None] for key, mean in means.items()}
        return means

    @property
    def skipped_updates(self) -> int:
        """Updates of D and G that were skipped since `compile`: their gradients were not finite."""
        due = self.steps_done * (self.discriminator_steps + 1)
        made = self.d_optimizer.iterations.numpy() + self.g_optimizer.iterations.numpy()
        return int(due - made) - self._skipped_before

    # --- Keras's interface -----------------------------------------------------------------------

    def compile(
        self,
        d_optimizer=None,
        g_optimizer=None,
        loss: str | Sequence = "non_saturating",
        *,
        discriminator_steps: int = 1,
        label_smoothing: float = 0.0,
        r1: float = 0.0,
        r2: float = 0.0,
        gradient_penalty: float | None = None,
        decay_steps: int | None = None,
        augment: str = "none",
        jit_compile: bool = False,
        **kwargs,
    ) -> "GAN":
        """Sets how the two networks learn, and returns the model.

        Args:
          d_optimizer, g_optimizer: Keras optimizers, both or none. Default: the recipe's Adam.
          loss: a key of `losses.OBJECTIVES`, or an own `losses.Objective`: a pair of functions of
            logits, (real, fake) -> (B,) of the discriminator and (fake, real) -> (B,) of the
            generator.
          discriminator_steps: k of Algorithm 1: updates of D, each on a part of the batch.
          label_smoothing: lowers D's target for real images from 1 (Salimans et al. 2016).
          r1, r2: gamma; adds gamma / 2 |dD/dx|^2 to D's loss, at real and at generated images
            (Mescheder et al. 2018).
          gradient_penalty: weight of (|dD/dx| - 1)^2 between real and generated images (Gulrajani
            et al. 2017). Default: 10 for "wasserstein", else 0.
          decay_steps: training steps in which the default optimizers' learning rates fall to 5 %
            along a cosine, as the recipe's do. Default: they stay as they begin.
          augment: augmentations of D's input, "translation,cutout,color" (Zhao et al. 2020).
          jit_compile: compile the step with XLA; `runtime.use_xla` says where it is faster.
          **kwargs: `run_eagerly` and `steps_per_execution` of `keras.Model.compile`.

        Raises:
          ValueError: unknown loss, a penalty on a discriminator with batch norm, or an argument of
            Keras that has no meaning for two networks.
        """
        for name in ("optimizer", "metrics", "weighted_metrics", "loss_weights"):
            if name in kwargs:
                advice = "Two networks have d_optimizer and g_optimizer, and no targets for metrics"
                raise ValueError(f"{name}: expected none. {advice}; a callback may score samples")
        objective, augmentations = losses.get(loss, label_smoothing), rules.augmentations(augment)
        if discriminator_steps < 1:
            raise ValueError(f"discriminator_steps: expected >= 1; received {discriminator_steps}")
        if gradient_penalty is None:
            gradient_penalty = rules.GRADIENT_PENALTIES.get(str(loss), 0.0)
        penalties = {"r1": r1, "r2": r2, "gradient_penalty": gradient_penalty}
        rules.check_penalties(networks.has_batch_norm(self.discriminator), **penalties)
        optimizers.check_pair(d_optimizer, g_optimizer, decay_steps)
        if d_optimizer is None:
            d_steps = decay_steps * discriminator_steps if decay_steps else None
            rates = map(optimizers.decayed, self.learning_rates, (d_steps, decay_steps))
            d_optimizer, g_optimizer = (Adam(rate, self.beta_1, 0.99) for rate in rates)
        # No optimizer for Keras: it would create an RMSprop that nothing uses.
        super().compile(optimizer=None, jit_compile=jit_compile, **kwargs)
        self.objective, self.augmentations = objective, augmentations
        self.discriminator_steps = discriminator_steps
        self.r1, self.r2, self.gradient_penalty = penalties.values()
        self.d_optimizer = optimizers.prepare(d_optimizer, self.discriminator)
        self.g_optimizer = optimizers.prepare(g_optimizer, self.generator)
        self.optimizer = optimizers.Both(self.d_optimizer, self.g_optimizer)
        self.means = RunningMeans(self.log_keys, ("d_gradient_norm", "g_gradient_norm"))
        self._skipped_before = 0
        self._skipped_before = self.skipped_updates  # of optimizers that are no longer here
        of_loss = {"loss": loss, "label_smoothing": label_smoothing, "augment": augment}
        of_steps = {"discriminator_steps": discriminator_steps, "jit_compile": jit_compile}
        self._compile_arguments = of_loss | penalties | of_steps | kwargs
        return self

    def _maybe_symbolic_build(self, iterator=None, data_batch=None) -> None:
        """Does nothing, as the networks are built; Keras's takes a batch from the data for it."""

    def training_state(self) -> dict[str, list]:
        """Every variable that training reads or writes, by owner: the content of a checkpoint."""
        return {
            "global_step": [self.global_step],
            "generator": self.generator.variables,
            "averaged_generator": self.averaged_generator.variables,
            "discriminator": self.discriminator.variables,
            "g_optimizer": self.g_optimizer.variables,
            "d_optimizer": self.d_optimizer.variables,
            "metrics": [v for tracker in self.metrics for v in tracker.variables],
        }

    def get_compile_config(self) -> dict | None:
        if not self.compiled:
            return None
        return self._compile_arguments | {
            "d_optimizer": keras.saving.serialize_keras_object(self.d_optimizer),
            "g_optimizer": keras.saving.serialize_keras_object(self.g_optimizer),
        }

    def compile_from_config(self, config: dict) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))
