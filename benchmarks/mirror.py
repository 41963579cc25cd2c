"""A Keras network told in plain data, and the same network in PyTorch."""

from typing import Any


def describe(network) -> list[dict[str, Any]]:
    """The layers of a sequential Keras network, in order, with what determines their cost.

    Raises:
      ValueError: a layer that `in_torch` would not know.
    """
    found: list[dict[str, Any]] = []
    for layer in network.layers:
        kind = type(layer).__name__
        facts: dict[str, Any] = {"kind": kind}
        if kind == "InputLayer":
            continue
        if kind == "Dense":
            facts |= {"inputs": layer.kernel.shape[0], "outputs": layer.units}
            facts["bias"] = layer.use_bias
        elif kind in ("Conv2D", "Conv2DTranspose"):
            facts |= {"inputs": layer.input.shape[-1], "outputs": layer.filters}
            facts |= {"kernel": layer.kernel_size[0], "stride": layer.strides[0]}
            facts |= {"same": layer.padding == "same", "bias": layer.use_bias}
        elif kind == "BatchNormalization":
            facts |= {"channels": layer.input.shape[-1], "flat": len(layer.input.shape) == 2}
            facts |= {"momentum": 1 - layer.momentum, "epsilon": layer.epsilon}
        elif kind == "LeakyReLU":
            facts["slope"] = float(layer.negative_slope)
        elif kind == "Dropout":
            facts["rate"] = layer.rate
        elif kind == "Reshape":
            height, width, channels = layer.target_shape
            facts["shape"] = (channels, height, width)
        elif kind == "Activation" and layer.activation.__name__ == "tanh":
            facts["kind"] = "Tanh"
        elif kind not in ("ReLU", "Flatten"):
            raise ValueError(f"{network.name}: no PyTorch mirror of {layer}; add it here")
        found.append(facts)
    return found


def in_torch(layers: list[dict[str, Any]]):
    """The same layers as a `torch.nn.Sequential`, channels first."""
    from torch import nn

    def convolution(of: dict[str, Any]):
        # Keras pads by k - s in all; PyTorch by as much on either side.
        total = of["kernel"] - of["stride"] if of["same"] else 0
        if total % 2:
            raise ValueError(f"PyTorch cannot pad {of} on one side only")
        return {
            "in_channels": of["inputs"],
            "out_channels": of["outputs"],
            "kernel_size": of["kernel"],
            "stride": of["stride"],
            "padding": total // 2,
            "bias": of["bias"],
        }

    made = []
    for of in layers:
        match of["kind"]:
            case "Dense":
                made.append(nn.Linear(of["inputs"], of["outputs"], bias=of["bias"]))
            case "Conv2D":
                made.append(nn.Conv2d(**convolution(of)))
            case "Conv2DTranspose":
                made.append(nn.ConvTranspose2d(**convolution(of)))
            case "BatchNormalization":
                kind = nn.BatchNorm1d if of["flat"] else nn.BatchNorm2d
                made.append(kind(of["channels"], eps=of["epsilon"], momentum=of["momentum"]))
            case "ReLU":
                made.append(nn.ReLU(inplace=True))
            case "LeakyReLU":
                made.append(nn.LeakyReLU(of["slope"], inplace=True))
            case "Dropout":
                made.append(nn.Dropout(of["rate"]))
            case "Reshape":
                made.append(nn.Unflatten(1, tuple(of["shape"])))
            case "Flatten":
                made.append(nn.Flatten())
            case "Tanh":
                made.append(nn.Tanh())
    return nn.Sequential(*made)
