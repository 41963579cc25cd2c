"""pytorch/examples' DCGAN, scaled from 64x64 to 28x28.

As published: latents of 100 normal numbers; ngf = ndf = 64; 4x4 convolutions with stride 2 and no
biases; batch norm but at G's output and D's input; ReLU and tanh in G, LeakyReLU 0.2 in D, whose
last layer is a convolution to one sigmoid; N(0, 0.02) kernels, N(1, 0.02) scales of batch norm;
batches of 64; binary cross-entropy; D learns from reals and fakes in two backward passes, then G
from the same fakes; Adam 2e-4, betas 0.5 and 0.999.

Scaled: two of its five levels are left out, those of most channels, and the coarsest map that
remains is 7x7 instead of 4x4. So G goes 100 -> 7x7x128 (a 7x7 transposed convolution in place of
the 4x4 one) -> 14x14x64 -> 28x28x1, and D 28x28x1 -> 14x14x64 -> 7x7x128 -> 1 (a 7x7 convolution).
Samples are drawn by batch norm's moving statistics, as PyTorch's users do where a model serves.

published: its `DataLoader` with two worker processes, which transform image by image. Mended:
batches are cut from one tensor in memory, and the networks use the `channels_last` format, in which
convolutions on a CPU need no reordering.
"""

import numpy as np
import torch
from torch import nn

from benchmarks.contestants.pacing import Paced


class Digits(torch.utils.data.Dataset):
    """Images one at a time, as torchvision's `ToTensor` and `Normalize(0.5, 0.5)` give them."""

    def __init__(self, images: np.ndarray):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index) -> torch.Tensor:
        pixels = torch.from_numpy(self.images[index]).permute(2, 0, 1)
        return pixels.to(torch.float32).div(255).sub_(0.5).div_(0.5)


class PytorchDcgan(Paced):
    """The example as a `Contestant`."""

    batch_size = 64
    latent_dim = 100

    def __init__(self, images: np.ndarray, labels: np.ndarray, seed: int, published: bool):
        super().__init__()
        torch.manual_seed(seed)
        self.published = published
        self.digits = Digits(images)
        self.generator, self.discriminator = self.networks()
        self.generator.apply(initialise)
        self.discriminator.apply(initialise)
        if not published:
            self.generator.to(memory_format=torch.channels_last)
            self.discriminator.to(memory_format=torch.channels_last)
        self.criterion = nn.BCELoss()
        adam = {"lr": 2e-4, "betas": (0.5, 0.999)}
        self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), **adam)
        self.g_optimizer = torch.optim.Adam(self.generator.parameters(), **adam)

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """The generator and the discriminator."""
        return generator(self.latent_dim), discriminator()

    def batches(self):
        """Those of an epoch, (B, 1, 28, 28) in [-1, 1]; the last one may be smaller."""
        if self.published:
            yield from torch.utils.data.DataLoader(
                self.digits, batch_size=self.batch_size, shuffle=True, num_workers=2
            )
            return
        pixels = torch.from_numpy(self.digits.images).permute(0, 3, 1, 2)
        for chosen in torch.randperm(len(pixels)).split(self.batch_size):
            yield pixels[chosen].to(torch.float32).div_(127.5).sub_(1)

    def run(self, tick) -> None:
        while True:
            for reals in self.batches():
                self.step(reals)
                tick(len(reals))

    def step(self, reals: torch.Tensor) -> None:
        """One update of D, then one of G."""
        num = len(reals)
        self.discriminator.zero_grad()
        self.criterion(self.discriminator(reals).view(-1), torch.ones(num)).backward()
        fakes = self.generator(torch.randn(num, self.latent_dim, 1, 1))
        verdict = self.discriminator(fakes.detach()).view(-1)
        self.criterion(verdict, torch.zeros(num)).backward()
        self.d_optimizer.step()

        self.generator.zero_grad()
        self.criterion(self.discriminator(fakes).view(-1), torch.ones(num)).backward()
        self.g_optimizer.step()

    def sample(self, num: int, seed: int) -> tuple[np.ndarray, None]:
        """See `Contestant`."""
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
        """See `Contestant`."""
        return count(self.generator), count(self.discriminator)


def count(network: nn.Module) -> int:
    """Parameters and batch norm's statistics, without its counters of batches."""
    tensors = [*network.parameters(), *network.buffers()]
    return sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())


def initialise(module: nn.Module) -> None:
    """The example's initial weights."""
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
