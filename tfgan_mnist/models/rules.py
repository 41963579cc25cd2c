"""Which choices exclude each other: the rules that the models and the configuration share.

Each function raises ValueError. Nothing here needs TensorFlow, so that commands check their flags
before it starts.
"""

LOSSES = ("minimax", "non_saturating", "least_squares", "hinge", "wasserstein", "relativistic")
# Losses with a target of 1 for real images, which label smoothing can lower.
SMOOTHABLE = ("minimax", "non_saturating", "least_squares")
# The weight of the gradient penalty that a loss needs: WGAN-GP, Gulrajani et al. 2017, section 4.
GRADIENT_PENALTIES = {"wasserstein": 10.0}

FINAL_RATE = 0.05  # of the recipes: share of the learning rates that their decay ends at
# Of what D sees: models/augment.py.
AUGMENTATIONS = ("translation", "cutout", "color")


def augmentations(text: str) -> tuple[str, ...]:
    """The parts of a list such as "translation,cutout"; () for "none"."""
    kinds = () if text == "none" else tuple(text.split(","))
    if any(kind not in AUGMENTATIONS for kind in kinds):
        raise ValueError(
            f"augment: expected some of {','.join(AUGMENTATIONS)}, or none; received {text!r:.200}"
        )
    return kinds


def check_loss(loss, label_smoothing: float = 0.0) -> None:
    """A known loss, and smoothing only of a target."""
    if loss not in LOSSES:
        raise ValueError(
            f"loss: expected one of {', '.join(LOSSES)}, or a pair of functions, of the "
            f"discriminator and of the generator (losses.Objective); received {loss!r}"
        )
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing: expected 0 <= value < 1; received {label_smoothing}")
    if label_smoothing and loss not in SMOOTHABLE:
        raise ValueError(
            f"label_smoothing: expected a loss of {', '.join(SMOOTHABLE)}; received loss={loss}"
        )


def check_conditioning(conditioning: str, class_head: bool) -> None:
    """A class head must not read the answer from label planes."""
    if conditioning not in ("projection", "planes"):
        raise ValueError(f"conditioning: expected projection or planes; received {conditioning!r}")
    if class_head and conditioning == "planes":
        raise ValueError(
            "class_head: expected conditioning=projection; received planes, which show D the label"
        )


def check_hidden_dense(hidden_dense: bool, batch_norm: bool) -> None:
    """Without batch norm the generator collapses (docs/recipes.md)."""
    if hidden_dense and not batch_norm:
        raise ValueError(
            "hidden_dense: expected a discriminator with batch norm, without which the generator "
            "collapses; add --no-hidden_dense (hidden_dense=False)"
        )


def check_penalties(batch_norm: bool, **penalties: float) -> None:
    """Penalties are gradients of each image's own logit, and batch norm mixes images.

    Gulrajani et al. 2017, arXiv:1704.00028, section 4.
    """
    for name, weight in penalties.items():
        if weight < 0:
            raise ValueError(f"{name}: expected >= 0; received {weight}")
    used = [name for name, weight in penalties.items() if weight]
    if batch_norm and used:
        raise ValueError(
            f"{', '.join(used)}: expected a discriminator without batch norm; add "
            "--no-d_batch_norm, and for dcgan --no-hidden_dense; in Python batch_norm=False and "
            "hidden_dense=False of the discriminator's function"
        )
