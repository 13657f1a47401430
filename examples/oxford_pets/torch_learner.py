"""The same U-Net in PyTorch, trained by a plain loop from our initial weights on our batches: the experiment's peer."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from oxford_pets.jobs import Job
from oxford_pets.learners import MOMENTUM, build
from tritonnet.data import IGNORE, Loader
from tritonnet.kernels import runtime
from tritonnet.train import Metrics
from tritonnet.train.batches import Normalizer

DEVICE = runtime.device()


def double_conv(c: int, k: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (c, k):
        layers += [nn.Conv2d(channels, k, 3, padding=1, bias=False), nn.BatchNorm2d(k), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class TorchUNet(nn.Module):
    """`tn.models.UNet` of 3 channels and 2 classes; its parameters in the same order."""

    def __init__(self, base_channels: int, depth: int) -> None:
        super().__init__()
        width = [base_channels * 2**i for i in range(depth + 1)]
        self.downs = nn.ModuleList(double_conv(c, k) for c, k in zip([3, *width], width, strict=False))
        self.ups = nn.ModuleList(
            nn.ModuleList([nn.ConvTranspose2d(2 * c, c, 2, stride=2), double_conv(2 * c, c)])
            for c in reversed(width[:-1])
        )
        self.head = nn.Conv2d(width[0], 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = [self.downs[0](x)]
        for down in self.downs[1:]:
            skips.append(down(F.max_pool2d(skips[-1], 2)))
        x = skips.pop()
        for up, merge in self.ups:
            x, skip = up(x), skips.pop()
            h, w = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
            if h or w:
                x = F.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2))
            x = merge(torch.cat((skip, x), 1))
        return self.head(x)


class TorchLearner:
    """What `learners.Learner` is, by PyTorch: eager, channels-last, autocast for bf16."""

    def __init__(self, job: Job, normalizer: Normalizer, steps: int) -> None:
        torch.backends.cudnn.benchmark = job.framework == "torch-benchmark"
        torch.backends.cudnn.deterministic = job.framework == "torch"
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = job.precision == "tf32"
        self.low = torch.bfloat16 if job.precision == "bf16" else None
        self.network = TorchUNet(job.base_channels, job.depth)
        initial = [torch.from_numpy(tensor.numpy()) for tensor in build(job).state_dict().values()]
        self.network.load_state_dict(dict(zip(self.network.state_dict(), initial, strict=True)))
        self.network.to(DEVICE, memory_format=torch.channels_last)
        parameters = self.network.parameters()
        if job.optimizer == "sgd":
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(parameters, lr=job.lr, momentum=MOMENTUM)
        else:
            self.optimizer = torch.optim.Adam(parameters, lr=job.lr)
        self.mean, self.std = (torch.tensor(values, device=DEVICE) for values in (normalizer.mean, normalizer.std))
        self.scale, self.losses = normalizer.scale, torch.empty(steps, device=DEVICE)

    def _logits(self, images: np.ndarray) -> torch.Tensor:
        x = (torch.from_numpy(images).to(DEVICE).float() * self.scale - self.mean) / self.std
        with torch.autocast(DEVICE.type, self.low, enabled=self.low is not None):
            return self.network(x.permute(0, 3, 1, 2)).float()

    def epoch(self, loader: Loader, number: int) -> list[float]:
        """Train on an epoch's batches; the loss of each."""
        self.network.train()
        for i, batch in enumerate(loader.epoch(number)):
            masks = torch.from_numpy(batch.masks).to(DEVICE).long()
            loss = F.cross_entropy(self._logits(batch.images), masks, ignore_index=IGNORE)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.losses[i] = loss.detach()
        return self.losses.tolist()

    def masks(self, loader: Loader) -> np.ndarray:
        """The class of each pixel: (N, S, S) uint8."""
        self.network.eval()
        with torch.inference_mode():
            parts = [self._logits(batch.images).argmax(1).cpu() for batch in loader.epoch(0)]
        return torch.cat(parts).numpy().astype(np.uint8)

    def score(self, loader: Loader) -> Metrics:
        """IoU, Dice and pixel accuracy on a loader's images."""
        truth, found = np.concatenate([batch.masks for batch in loader.epoch(0)]), self.masks(loader)
        counted = truth != IGNORE
        matrix = np.bincount(truth[counted].astype(np.int64) * 2 + found[counted], minlength=4).reshape(2, 2)
        return Metrics.from_matrix(matrix.tolist())

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy on the device."""
        return {name: tensor.clone() for name, tensor in self.network.state_dict().items()}

    def restore(self, weights: dict[str, torch.Tensor]) -> None:
        """Take up a copy."""
        self.network.load_state_dict(weights)
