"""Adam as the recipes use it: fast on a CPU, and without updates by NaN or infinity."""

import keras
import tensorflow as tf

from tfgan_mnist.models import rules


@keras.saving.register_keras_serializable("tfgan_mnist")
class Adam(keras.optimizers.Adam):
    """Keras's Adam; a variable is updated by TensorFlow's one operation instead of a dozen.

    An update of which a gradient is NaN or infinite is skipped as a whole; `iterations` counts the
    others. Replicas have to agree, see `spread_non_finite`.
    """

    def apply(self, grads, trainable_variables=None):
        finite = tf.math.is_finite(tf.linalg.global_norm(grads))
        keras_apply = super().apply

        # Among replicas a condition around an update has to stand outside of them.
        def decide(strategy, finite, grads):
            def update():
                arguments = (grads, trainable_variables)
                strategy.extended.call_for_each_replica(keras_apply, args=arguments)
                return tf.constant(0)  # both branches have to return something

            tf.cond(strategy.experimental_local_results(finite)[0], update, lambda: tf.constant(0))

        context = tf.distribute.get_replica_context()
        context.merge_call(decide, args=(finite, list(grads)))

    def update_step(self, gradient, variable, learning_rate):
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        # The gradient of an embedding has only the rows that were looked up.
        sparse = isinstance(gradient, tf.IndexedSlices)
        by_keras = self.amsgrad or replicas > 1 or variable.dtype != tf.float32
        if by_keras or (sparse and not on_gpu()):
            super().update_step(gradient, variable, learning_rate)
            return
        step = tf.cast(self.iterations + 1, tf.float32)
        if sparse:
            self._update_by_rows(gradient, variable, learning_rate, step)
            return
        momentum, velocity = self._slots(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=momentum.handle,
            v=velocity.handle,
            beta1_power=tf.pow(self.beta_1, step),
            beta2_power=tf.pow(self.beta_2, step),
            lr=tf.cast(learning_rate, tf.float32),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, tf.float32),
        )

    def _update_by_rows(self, gradient, variable, learning_rate, step) -> None:
        """Keras's update by a sparse gradient, with products in place of its scatters.

        XLA makes a loop of a scatter where operations are deterministic (openxla/xla#34917). On a
        CPU Keras's stays, as products round differently. As there, a row that was looked up several
        times adds the sum of its squares to the velocity, not the square of its sum.
        """
        one_hot = tf.one_hot(gradient.indices, variable.shape[0])  # (B, rows)
        values = tf.cast(gradient.values, tf.float32)
        momentum, velocity = self._slots(variable)
        for slot, of_rows, beta in (
            (momentum, values, self.beta_1),
            (velocity, tf.square(values), self.beta_2),
        ):
            total = tf.matmul(one_hot, of_rows, transpose_a=True)
            slot.assign_add((total - slot) * (1.0 - beta))
        rate = tf.cast(learning_rate, tf.float32)
        rate *= tf.sqrt(1.0 - tf.pow(self.beta_2, step)) / (1.0 - tf.pow(self.beta_1, step))
        variable.assign_sub(rate * momentum / (tf.sqrt(velocity) + self.epsilon))

    def _slots(self, variable) -> tuple:
        """The momentum and the velocity of a variable; private members of Keras 3.15."""
        index = self._get_variable_index(variable)
        return self._momentums[index].value, self._velocities[index].value


def on_gpu() -> bool:
    """Whether this machine trains on a GPU."""
    return bool(tf.config.list_physical_devices("GPU"))


def spread_non_finite(gradients: list) -> list:
    """The gradients, NaN on all replicas where one of any replica is NaN or infinite.

    Keras's loss scale, and `Adam`, look at the first replica only.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return gradients
    zero = 0.0 * tf.linalg.global_norm(gradients)  # or NaN
    zero = context.all_reduce(tf.distribute.ReduceOp.SUM, zero)

    def add(part):  # of sparse gradients also the indices, which are integers
        return part + zero if part.dtype.is_floating else part

    return tf.nest.map_structure(add, gradients, expand_composites=True)


def decayed(learning_rate: float, steps: int | None, end: float = rules.FINAL_RATE):
    """A learning rate that falls along a cosine, in `steps` updates, to the share `end` of it."""
    if steps is None or end == 1:
        return learning_rate
    return keras.optimizers.schedules.CosineDecay(learning_rate, decay_steps=steps, alpha=end)


def check_pair(d_optimizer, g_optimizer, decay_steps: int | None) -> None:
    """Raises ValueError for one optimizer of two, one for both, or `decay_steps` with any."""
    if (d_optimizer is None) != (g_optimizer is None):
        raise ValueError("expected both d_optimizer and g_optimizer, or none; received one of them")
    if isinstance(d_optimizer, keras.optimizers.Optimizer) and d_optimizer is g_optimizer:
        raise ValueError("g_optimizer: expected an optimizer of its own; received d_optimizer")
    if d_optimizer is not None and decay_steps:
        raise ValueError(
            "decay_steps: expected none with optimizers of your own; give them a schedule instead, "
            "such as keras.optimizers.schedules.CosineDecay"
        )


class Both:
    """The two optimizers of a model, for callbacks of Keras that read `model.optimizer`."""

    built = True

    def __init__(self, *optimizers: keras.optimizers.Optimizer):
        self.optimizers = optimizers  # where Keras 3.15 looks for several
        self.variables = [each for optimizer in optimizers for each in optimizer.variables]
        self.iterations = optimizers[-1].iterations

    def get_config(self) -> dict:
        raise ValueError("expected a file name ending in .keras; older formats know one optimizer")


def prepare(optimizer, network: keras.Model) -> keras.optimizers.Optimizer:
    """The optimizer of a network, with a loss scale if the network computes in float16, and built.

    Args:
      optimizer: what `keras.optimizers.get` takes.
      network: whose trainable weights it updates.

    Raises:
      ValueError: an optimizer that averages weights, which the model does itself.
    """
    optimizer = keras.optimizers.get(optimizer)
    if getattr(optimizer, "inner_optimizer", optimizer).use_ema:
        raise ValueError(
            f"{optimizer.name}: expected use_ema=False; received True. The model averages the "
            "generator's weights itself: give ema=0.999 to its constructor."
        )
    # float16 gradients under 6e-8 vanish. Keras would scale only `model.optimizer`.
    half = any(layer.dtype_policy.compute_dtype == "float16" for layer in network.layers)
    if half and not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.name = network.name  # in the logs of Keras's callbacks; two may be called "adam"
    # Built now, so that its slots exist before a checkpoint is restored into them.
    optimizer.build(network.trainable_variables)
    return optimizer
