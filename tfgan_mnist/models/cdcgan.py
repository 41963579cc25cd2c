"""The conditional DCGAN: the label is an input of both networks.

Mirza & Osindero 2014, "Conditional Generative Adversarial Nets", arXiv:1411.1784. Ways to let the
label in: Radford et al. 2015 (planes at every layer), Miyato & Koyama 2018, "cGANs with Projection
Discriminator", arXiv:1802.05637, and Odena et al. 2016, "Conditional Image Synthesis With Auxiliary
Classifier GANs", arXiv:1610.09585 (a class head on D).
"""

from collections.abc import Sequence

import keras
from keras import layers, ops

from tfgan_mnist.models import dcgan, networks, rules
from tfgan_mnist.models.layers import Dropout, normalised


@keras.saving.register_keras_serializable("tfgan_mnist")
class Temperature(layers.Layer):
    """Latents (B, Z): unchanged in training, multiplied by the temperature in inference.

    Above 1 samples are more diverse and less precise, below 1 the other way, as with the truncation
    of Brock et al. 2018, arXiv:1809.11096. The name is that of Kingma & Dhariwal 2018, "Glow",
    arXiv:1807.03039, section 6.
    """

    def __init__(self, temperature: float, **kwargs):
        super().__init__(**kwargs)
        self.temperature = temperature

    def call(self, inputs, training=False):
        return inputs if training else inputs * self.temperature

    def get_config(self) -> dict:
        return super().get_config() | {"temperature": self.temperature}


def label_vector(labels, num_classes: int, embedding_dim: int):
    """labels (B,) -> one-hot (B, num_classes), or a learnt embedding (B, embedding_dim)."""
    if embedding_dim:
        return layers.Embedding(num_classes, embedding_dim)(labels)
    return ops.one_hot(labels, num_classes)


def with_planes(images, vector):
    """images (B, H, W, C), vector (B, K) -> (B, H, W, C + K): the same K numbers at every pixel."""
    _, height, width, _ = images.shape
    planes = ops.reshape(vector, (-1, 1, 1, vector.shape[-1]))
    planes = ops.tile(planes, (1, height, width, 1))
    return layers.Concatenate()([images, ops.cast(planes, images.dtype)])


def cdcgan_generator(
    image_shape: Sequence[int] = (28, 28, 1),
    num_classes: int = 10,
    latent_dim: int = 100,
    embedding_dim: int = 0,
    temperature: float = 1.06,
    hidden_dense: bool = False,
    **options,
) -> keras.Model:
    """latents (B, latent_dim), labels (B,) int32 -> images (B, H, W, C) in [-1, 1].

    The label's vector stands beside the latents: through "project and reshape", where that comes
    first, it gives every channel of every position of the first map a bias of its own per class.
    In inference the latents are under `Temperature`.
    """
    latents = keras.Input((latent_dim,), name="latents")
    labels = keras.Input((), dtype="int32", name="labels")
    vector = label_vector(labels, num_classes, embedding_dim)
    x = layers.Concatenate()([Temperature(temperature)(latents), vector])
    options["hidden_dense"] = hidden_dense
    return dcgan.convolutional_generator([latents, labels], x, image_shape, **options)


def cdcgan_discriminator(
    image_shape: Sequence[int] = (28, 28, 1),
    num_classes: int = 10,
    embedding_dim: int = 0,
    conditioning: str = "projection",
    class_head: bool = False,
    hidden_dense: bool = False,
    **options,
) -> keras.Model:
    """images (B, H, W, C), labels (B,) int32 -> logits (B, 1) [, class logits (B, num_classes)].

    Args:
      embedding_dim: of the planes' vector; 0 is one-hot.
      conditioning: "projection" adds the features' inner product with a vector learnt for each
        class to the logit; "planes" lays the label's vector beside every pixel of the input.
      class_head: also classify, by a hidden layer on features that have not seen the label.
      **options: of `convolutional_features`. `spectral_norm` leaves the projection's vectors and
        the class head as they are.

    Raises:
      ValueError: unknown conditioning, or planes with a class head, which would read the answer.
    """
    rules.check_conditioning(conditioning, class_head)
    options["hidden_dense"] = hidden_dense
    images = keras.Input(tuple(image_shape), name="images")
    labels = keras.Input((), dtype="int32", name="labels")
    spectral_norm = options.get("spectral_norm", False)
    if conditioning == "planes":
        x = with_planes(images, label_vector(labels, num_classes, embedding_dim))
        features = dcgan.convolutional_features(x, image_shape, **options)
    else:
        features = dcgan.convolutional_features(images, image_shape, **options)
    # The sums over thousands of features, and the logits, are float32 whatever the policy.
    features = layers.Activation("linear", dtype="float32")(features)
    logits = normalised(layers.Dense(1, dtype="float32"), spectral_norm)(features)
    if conditioning == "projection":
        width, initializer = features.shape[-1], "glorot_uniform"
        of_class = layers.Embedding(num_classes, width, initializer, dtype="float32")(labels)
        projection = layers.Dot(axes=1, dtype="float32")([features, of_class])
        logits = layers.Add(name="logits", dtype="float32")([logits, projection])
    outputs = [logits]
    if class_head:
        x = layers.LeakyReLU(0.2)(layers.Dense(256)(features))
        x = Dropout(0.5)(x)
        outputs.append(layers.Dense(num_classes, dtype="float32", name="class_logits")(x))
    return keras.Model([images, labels], outputs, name="discriminator")


@keras.saving.register_keras_serializable("tfgan_mnist")
class CDCGAN(dcgan.DCGAN):
    """`DCGAN` of labelled images: `fit` takes (images, labels), labels (B,) integers.

    Args:
      generator: as of `GAN`, with labels (B,) int32 as its second input.
      discriminator: likewise.
      num_classes: labels are 0 .. num_classes - 1. Default: that of the given networks, or 10.
      **kwargs: as of `GAN`.
    """

    num_classes: int
    learning_rates = (5e-4, 2e-3)
    beta_1 = 0.5

    def __init__(
        self, generator=None, discriminator=None, *, num_classes: int | None = None, **kwargs
    ):
        if num_classes is None:
            num_classes = max(networks.classes_of(generator, discriminator), default=10)
        self.num_classes = num_classes
        super().__init__(generator, discriminator, **kwargs)

    def default_generator(self, image_shape: Sequence[int]) -> keras.Model:
        return cdcgan_generator(image_shape, self.num_classes)

    def default_discriminator(self, image_shape: Sequence[int]) -> keras.Model:
        return cdcgan_discriminator(image_shape, self.num_classes)

    def get_config(self) -> dict:
        return super().get_config() | {"num_classes": self.num_classes}
