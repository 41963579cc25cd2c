"""What networks must be, to be trained against each other."""

import contextlib
import random
from collections.abc import Iterator, Sequence

import keras


def all_layers(network: keras.Layer) -> list[keras.Layer]:
    """The layers of a network, those inside of nested networks and wrappers too."""
    found = []
    for layer in getattr(network, "layers", []):
        found += [layer, *all_layers(layer)]
    if isinstance(network, keras.layers.Wrapper):
        found += [network.layer, *all_layers(network.layer)]
    return found


def has_batch_norm(network: keras.Model) -> bool:
    """Whether images of a batch have an influence on each other's outputs in training."""
    kinds = (keras.layers.BatchNormalization,)
    return any(isinstance(layer, kinds) for layer in all_layers(network))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Networks that are built inside have weights that follow from the seed alone.

    Keras draws the seeds of its initialisers and dropouts from Python's global random state.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def clone(network: keras.Model) -> keras.Model:
    """A network of the same layers and weights."""

    def copy(layer):
        if isinstance(layer, keras.layers.Lambda):  # without weights, and Keras copies no code
            return layer
        return type(layer).from_config(layer.get_config())

    copied = keras.models.clone_model(network, clone_function=copy)
    copied.set_weights(network.get_weights())
    return copied


def packed_shape(image_shape: Sequence[int], packing: int) -> tuple[int, ...]:
    """(H, W, C) -> (H, W, C * packing), of what the discriminator sees."""
    height, width, channels = image_shape
    return height, width, channels * packing


def image_shape_of(
    generator: keras.Model | None,
    discriminator: keras.Model | None,
    image_shape: Sequence[int] | None,
    packing: int = 1,
) -> tuple[int, ...]:
    """(H, W, C) of the networks: as given, or that of the one which is there, or 28x28x1.

    The discriminator's images have C * `packing` channels.

    Raises:
      ValueError: a given network has another one.
    """
    found = {"image_shape": tuple(image_shape)} if image_shape is not None else {}
    if generator is not None:
        found["generator"] = tuple(generator.outputs[0].shape[1:])
    if discriminator is not None:
        *sides, channels = discriminator.inputs[0].shape[1:]
        if packing > 1:
            if not channels or channels % packing:
                raise ValueError(
                    f"discriminator: expected images of {packing} times the generator's channels, "
                    f"as packing={packing}; received {channels} channels"
                )
            channels //= packing
        found["discriminator"] = (*sides, channels)
    shapes = list(found.values()) or [(28, 28, 1)]
    if any(shape != shapes[0] for shape in shapes):
        received = ", ".join(f"{name} {shape}" for name, shape in found.items())
        raise ValueError(f"networks: expected images of one shape; received {received}")
    if len(shapes[0]) != 3 or None in shapes[0]:
        raise ValueError(f"networks: expected images (H, W, C); received {shapes[0]}")
    return shapes[0]


def check(
    generator: keras.Model, discriminator: keras.Model, num_classes: int | None = None
) -> None:
    """Checks the inputs and outputs of two networks against each other.

    Raises:
      ValueError: latents that are not (B, Z), a number of inputs that does not fit the model,
        another number of classes than `num_classes`, or a discriminator that does not return logits
        (B, 1).
    """
    latents = generator.inputs[0].shape
    if len(latents) != 2:
        raise ValueError(f"generator: expected latents of shape (B, Z); received {latents}")
    names = ("latents", "images") if num_classes is None else ("latents, labels", "images, labels")
    for network, expected in zip((generator, discriminator), names):
        if len(network.inputs) != len(expected.split()):
            raise ValueError(
                f"{network.name}: expected the inputs {expected}; received {len(network.inputs)}"
            )
    logits, *class_logits = discriminator.outputs
    if tuple(logits.shape[1:]) != (1,):
        raise ValueError(f"discriminator: expected logits of shape (B, 1); received {logits.shape}")
    activation = _last_activation(discriminator)
    if activation in ("sigmoid", "softmax"):
        raise ValueError(
            f"discriminator: expected logits, any number; received the output of a {activation}. "
            "Remove it: the losses contain the sigmoid."
        )
    if num_classes is not None:
        expected_classes = {num_classes}
        found = classes_of(generator, discriminator)
        found |= {head.shape[-1] for head in class_logits}
        if found - expected_classes:
            raise ValueError(
                f"num_classes: expected {num_classes} in both networks; received "
                f"{', '.join(map(str, sorted(found)))}"
            )


def classes_of(*networks: keras.Model | None) -> set[int]:
    """The numbers of classes that networks' one-hot vectors and embeddings are made for."""
    found: set[int] = set()
    for network in networks:
        for layer in [*all_layers(network), *getattr(network, "operations", [])]:
            classes = getattr(layer, "num_classes", None) or getattr(layer, "input_dim", None)
            if classes:
                found.add(classes)
    return found


def _last_activation(network: keras.Model) -> str:
    """The name of the activation that the first output comes from, "" when it has none."""
    last = network.outputs[0]._keras_history.operation
    if isinstance(last, keras.Model):
        return _last_activation(last)
    activation = getattr(last, "activation", None)
    return getattr(activation, "__name__", type(last).__name__.lower())
