"""Keras's layers in forms that train faster on a CPU: the same functions.

`python -m benchmarks.step --compare=keras_layers` measures the gain; docs/recipes.md has figures.
"""

import keras
import tensorflow as tf
from keras import layers

from tfgan_mnist.models import replicas

FEW_CHANNELS = 4  # up to so many `from_depth` is faster than the plain operation


def normalised(layer: keras.Layer, spectral_norm: bool, name: str | None = None) -> keras.Layer:
    """`layer`, under spectral normalisation when asked (Miyato et al. 2018, arXiv:1802.05957).

    Keras's wrapper projects: it writes the divided kernel back into the layer at every training
    call, those of G's update among them, where the paper divides on the fly and trains the
    undivided kernel. Such layers compute in float32 whatever the policy: the kernel that is written
    back would be rounded to half precision at every step, and small updates would vanish.
    """
    if spectral_norm:
        layer.dtype_policy = keras.DTypePolicy("float32")
        return layers.SpectralNormalization(layer, name=name, dtype="float32")
    if name:
        layer.name = name
    return layer


@keras.saving.register_keras_serializable("tfgan_mnist")
class Dropout(layers.Dropout):
    """Keras's, except that each replica drops what one device would have dropped of its images.

    Keras's own drops the same units on every replica, whose images then share their noise.
    """

    def call(self, inputs, training=False):
        context = tf.distribute.get_replica_context()  # None while a network is being built
        if not training or context is None or context.num_replicas_in_sync == 1:
            return super().call(inputs, training=training)
        num = replicas.num_rows(inputs)
        first, total = replicas.place_of(num)
        everybody = tf.concat([[total], tf.shape(inputs)[1:]], axis=0)
        kept = super().call(tf.ones(everybody, inputs.dtype), training=True)
        return inputs * kept[first : first + num]


@keras.saving.register_keras_serializable("tfgan_mnist")
class BatchNormalization(layers.BatchNormalization):
    """Keras's over the last axis; in training by TensorFlow's fused operation.

    Keras composes it of a dozen operations, each of which reads and writes all activations.
    """

    def call(self, inputs, training=None):
        last = self.axis in (-1, len(inputs.shape) - 1)
        if not (training and self.trainable and last) or self.synchronized:
            return super().call(inputs, training=training)
        channels = inputs.shape[-1]
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=tf.reshape(inputs, [-1, 1, 1, channels]),
            scale=self.gamma if self.scale else tf.ones([channels]),
            offset=self.beta if self.center else tf.zeros([channels]),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The operation returns the sample's unbiased variance; Keras averages the biased one.
        count = tf.cast(tf.size(inputs) / channels, variance.dtype)
        variance *= (count - 1) / count
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + value * (1.0 - self.momentum))
        return tf.reshape(outputs, tf.shape(inputs))


def from_depth(x, kernel):
    """tf.nn.conv2d_transpose(x, kernel, strides=2, padding="SAME"), for a kernel of even side.

    An output pixel's row and column, even or odd, choose which quarter of the kernel makes it. So
    the four quarters are kernels of half the side, whose outputs are four pixels' channels.

    Args:
      x: (B, H, W, C).
      kernel: (2m, 2m, F, C).

    Returns:
      (B, 2H, 2W, F).
    """
    side, _, filters, channels = kernel.shape
    half = side // 2
    quarters = tf.reshape(kernel, [half, 2, half, 2, filters, channels])
    quarters = tf.transpose(quarters, [0, 2, 5, 1, 3, 4])[::-1, ::-1]
    quarters = tf.reshape(quarters, [half, half, channels, 4 * filters])
    beside = [half - 1, half - 1]
    padded = tf.pad(x, [[0, 0], beside, beside, [0, 0]]) if half > 1 else x
    pixels = tf.nn.depth_to_space(tf.nn.conv2d(padded, quarters, 1, "VALID"), 2)
    return pixels[:, half - 1 : -(half - 1) or None, half - 1 : -(half - 1) or None]


# Forward the one way, backward the other: each operation in the form that is the faster one.


@tf.custom_gradient
def _transposed(x, kernel):
    def gradient(upstream):
        of_x = tf.nn.conv2d(upstream, kernel, strides=2, padding="SAME")
        # A transposed convolution is the gradient of a plain one, hence the exchange.
        return of_x, _of_kernel(upstream, kernel.shape, x)

    return from_depth(x, kernel), gradient


@tf.custom_gradient
def _strided(x, kernel):
    def gradient(upstream):
        return _transposed(upstream, kernel), _of_kernel(x, kernel.shape, upstream)

    return tf.nn.conv2d(x, kernel, strides=2, padding="SAME"), gradient


def _of_kernel(x, shape, upstream):
    """Gradient by the kernel of a convolution of `x` with stride 2."""
    return tf.raw_ops.Conv2DBackpropFilter(
        input=x,
        filter_sizes=shape,
        out_backprop=upstream,
        strides=[1, 2, 2, 1],
        padding="SAME",
    )


def _has_fast_form(layer, channels: int) -> bool:
    """Whether `_transposed` and `_strided` do what a convolution of an image's channels does."""
    return (
        channels <= FEW_CHANNELS
        and layer.activation is keras.activations.linear
        and layer.data_format == "channels_last"
        and layer.padding == "same"
        and tuple(layer.strides) == (2, 2)
        and layer.kernel_size[0] == layer.kernel_size[1]
        and layer.kernel_size[0] % 2 == 0
    )


@keras.saving.register_keras_serializable("tfgan_mnist")
class Conv2DTranspose(layers.Conv2DTranspose):
    """Keras's; in training, where it makes an image's few channels, as `from_depth`."""

    def call(self, inputs, training=False):
        # In what is exported the plain operation stays: oneDNN's padded one fails on 0 images.
        if not training or self.output_padding or not _has_fast_form(self, self.filters):
            return super().call(inputs)
        outputs = _transposed(inputs, tf.convert_to_tensor(self.kernel))
        return outputs + self.bias if self.use_bias else outputs


@keras.saving.register_keras_serializable("tfgan_mnist")
class Conv2D(layers.Conv2D):
    """Keras's; where it reads an image's few channels, its gradient by the image as `from_depth`.

    The step takes that gradient in every update of the generator.
    """

    def call(self, inputs, training=False):
        _, height, width, channels = inputs.shape
        even = height and width and height % 2 == width % 2 == 0
        if not (training and even and _has_fast_form(self, channels)):
            return super().call(inputs)
        outputs = _strided(inputs, tf.convert_to_tensor(self.kernel))
        return outputs + self.bias if self.use_bias else outputs
