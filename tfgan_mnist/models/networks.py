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
    return any(isinstance(each, keras.layers.BatchNormalization) for each in all_layers(network))


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


def image_shape_of(
    generator: keras.Model | None, discriminator: keras.Model | None, packing: int
) -> tuple[int, ...]:
    """(H, W, C) of the network that is there, or 28x28x1."""
    if generator is not None:
        return tuple(generator.outputs[0].shape[1:])
    if discriminator is not None:
        *sides, channels = discriminator.inputs[0].shape[1:]
        return (*sides, channels // packing)
    return (28, 28, 1)


def packed_shape(image_shape: Sequence[int], packing: int) -> tuple[int, ...]:
    """(H, W, C) -> (H, W, C * packing), of what the discriminator sees."""
    if len(image_shape) != 3:
        raise ValueError(f"networks: expected images (H, W, C); received {tuple(image_shape)}")
    height, width, channels = image_shape
    return height, width, channels * packing


def check(
    generator: keras.Model,
    discriminator: keras.Model,
    image_shape: tuple[int, ...],
    seen_shape: tuple[int, ...],
    num_classes: int | None,
) -> None:
    """Checks two networks against each other: G makes `image_shape`, D reads `seen_shape`.

    Raises:
      ValueError: inputs or outputs of other shapes, another number of classes, or a discriminator
        that does not end in logits.
    """
    labels = {} if num_classes is None else {"labels": ()}
    heads = [(num_classes,)] * (len(discriminator.outputs) - 1)
    for network, given, made in (
        (generator, {"latents": generator.inputs[0].shape[-1:], **labels}, [image_shape]),
        (discriminator, {"images": seen_shape, **labels}, [(1,), *heads]),
    ):
        inputs = [each.shape[1:] for each in network.inputs]
        outputs = [each.shape[1:] for each in network.outputs]
        if (inputs[0], len(inputs), outputs) != (next(iter(given.values())), len(given), made):
            raise ValueError(
                f"{network.name}: expected inputs of shapes {given} and outputs {made}; received "
                f"inputs {inputs} and outputs {outputs}"
            )
    activation = _last_activation(discriminator)
    if activation in ("sigmoid", "softmax"):
        raise ValueError(
            f"discriminator: expected logits, any number; received the output of a {activation}. "
            "Remove it: the losses contain the sigmoid."
        )
    if num_classes is not None:
        found = classes_of(generator, discriminator)
        if found - {num_classes}:
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
