"""pytorch/examples' DCGAN, scaled from 64x64 to 28x28.

As published: latents of 100 normal numbers; ngf = ndf = 64; 4x4 convolutions with stride 2 and no
biases; batch norm but at G's output and D's input; ReLU and tanh in G, LeakyReLU 0.2 in D, whose
last layer is a convolution to one sigmoid; N(0, 0.02) kernels, N(1, 0.02) scales of batch norm;
batches of 64; binary cross-entropy; D learns from reals and fakes in two backward passes, then G
from the same fakes; Adam 2e-4, betas 0.5 and 0.999.

Scaled: the two levels with the most channels are left out, and the coarsest map is 7x7 instead of
4x4. G: 100 -> 7x7x128 (a 7x7 transposed convolution) -> 14x14x64 -> 28x28x1. D: 28x28x1 -> 14x14x64
-> 7x7x128 -> 1 (a 7x7 convolution). Samples use batch norm's moving statistics.

Corrected, as it only slows it down on a CPU: batches come from one tensor in memory instead of a
`DataLoader`, and the networks use the `channels_last` format.
"""

import numpy as np
import torch
from torch import nn

from benchmarks.timed import TimedTraining


class PytorchDcgan(TimedTraining):
    """The example in training."""

    batch_size = 64
    latent_dim = 100

    def __init__(self, images: np.ndarray, labels: np.ndarray, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2)
        self.generator, self.discriminator = generator(self.latent_dim), discriminator()
        for network in (self.generator, self.discriminator):
            network.apply(initialise)
            network.to(memory_format=torch.channels_last)
        self.criterion = nn.BCELoss()
        adam = {"lr": 2e-4, "betas": (0.5, 0.999)}
        self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), **adam)
        self.g_optimizer = torch.optim.Adam(self.generator.parameters(), **adam)

    def run(self, tick) -> None:
        while True:
            for chosen in torch.randperm(len(self.images)).split(self.batch_size):
                self.step(self.images[chosen].to(torch.float32).div_(127.5).sub_(1))
                tick(len(chosen))

    def step(self, reals: torch.Tensor) -> None:
        """Updates D, then G; `reals` (B, 1, 28, 28) in [-1, 1], an epoch's last batch smaller."""
        num = len(reals)
        self.discriminator.zero_grad()
        self.criterion(self.discriminator(reals).view(-1), torch.ones(num)).backward()
        fakes = self.generator(torch.randn(num, self.latent_dim, 1, 1))
        on_fakes = self.discriminator(fakes.detach()).view(-1)
        self.criterion(on_fakes, torch.zeros(num)).backward()
        self.d_optimizer.step()

        self.generator.zero_grad()
        self.criterion(self.discriminator(fakes).view(-1), torch.ones(num)).backward()
        self.g_optimizer.step()

    def sample(self, num: int, seed: int) -> tuple[np.ndarray, None]:
        latents = np.random.default_rng(seed).standard_normal((num, self.latent_dim), np.float32)
        self.generator.eval()
        with torch.no_grad():
            parts = [
                self.generator(part[:, :, None, None])
                for part in torch.from_numpy(latents).split(500)
            ]
        self.generator.train()
        pixels = torch.cat(parts).permute(0, 2, 3, 1).numpy()
        return np.rint(pixels * 127.5 + 127.5).astype(np.uint8), None

    def parameters(self) -> tuple[int, int]:
        return count(self.generator), count(self.discriminator)


def count(network: nn.Module) -> int:
    """Returns the number of parameters and batch norm's statistics, without its counters."""
    tensors = [*network.parameters(), *network.buffers()]
    return sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())


def initialise(module: nn.Module) -> None:
    """Sets the example's initial weights."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def generator(latent_dim: int) -> nn.Module:
    """latents (B, latent_dim, 1, 1) -> images (B, 1, 28, 28) in [-1, 1]."""
    return nn.Sequential(
        nn.ConvTranspose2d(latent_dim, 128, 7, bias=False),
        nn.BatchNorm2d(128),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(64, 1, 4, stride=2, padding=1, bias=False),
        nn.Tanh(),
    )


def discriminator() -> nn.Module:
    """Images (B, 1, 28, 28) -> probabilities (B, 1, 1, 1) of being real."""
    return nn.Sequential(
        nn.Conv2d(1, 64, 4, stride=2, padding=1, bias=False),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(64, 128, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(128),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(128, 1, 7, bias=False),
        nn.Sigmoid(),
    )
