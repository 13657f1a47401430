"""The same U-Net in PyTorch, trained from our initial weights on our batches: the experiment's peer.

On a GPU the forward, the loss and the backward of a full batch are one CUDA graph, as they are in ours, and the optimizer is
PyTorch's fused one: so neither side waits for Python.

Loss, gradients, optimizer, schedule and average are PyTorch's. Where a job augments, the images and masks are the ones that
our kernel makes, handed over normalised, channels-last, in the job's precision.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from oxford_pets.jobs import Job
from oxford_pets.learners import buffers, build, config
from tritonnet.data import IGNORE, Augmentation, Loader
from tritonnet.kernels import runtime
from tritonnet.train import Metrics
from tritonnet.train.batches import Normalizer, to_device
from tritonnet.train.objective import parse_loss

DEVICE = runtime.device()
GPU = DEVICE.type == "cuda"
EAGER = 3  # full batches before the recording, which warm PyTorch up: the run's first, so nothing is trained twice


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


def cross_entropy(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, masks, ignore_index=IGNORE)


def dice(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """As `tn.nn.DiceLoss`: the mean over images and classes of 1 - 2 I / (P + T), ignored pixels in no sum."""
    counted = (masks != IGNORE)[:, None]
    p = logits.softmax(1) * counted
    t = torch.stack([masks == 0, masks == 1], 1)
    shared, both = (p * t).sum((2, 3)), p.sum((2, 3)) + t.sum((2, 3))
    return (1 - (2 * shared + 1e-5) / (both + 1e-5)).mean()


def loss_of(text: str, logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """The sum of such terms that `Objective` takes."""
    terms = {"ce": cross_entropy, "dice": dice}
    values = ((factor, terms[name](logits, masks)) for factor, name, _ in parse_loss(text))
    first, *rest = (value if factor == 1 else value * factor for factor, value in values)
    return sum(rest, first)


class TorchLearner:
    """What `learners.Learner` is, by PyTorch: channels-last, autocast for bf16, and on a GPU one CUDA graph."""

    def __init__(self, job: Job, normalizer: Normalizer, steps: int) -> None:
        self.job, self.augmentation, self.normalizer = job, Augmentation.parse(job.augment), normalizer
        torch.backends.cudnn.benchmark = job.framework == "torch-benchmark"
        torch.backends.cudnn.deterministic = job.framework == "torch"
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = job.precision == "tf32"
        self.low = torch.bfloat16 if job.precision == "bf16" else None
        self.network = TorchUNet(job.base_channels, job.depth)
        initial = [torch.from_numpy(tensor.numpy()) for tensor in build(job).state_dict().values()]
        self.network.load_state_dict(dict(zip(self.network.state_dict(), initial, strict=True)))
        self.network.to(DEVICE, memory_format=torch.channels_last)
        average = get_ema_multi_avg_fn(job.ema)
        self.averaged = AveragedModel(self.network, multi_avg_fn=average, use_buffers=True) if job.ema else None
        self.shown = self.averaged.module if self.averaged is not None else self.network  # what is scored
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[job.optimizer]
        more = {"momentum": config(job).momentum} if job.optimizer == "sgd" else {}
        self.optimizer = kind(self.network.parameters(), lr=job.lr, weight_decay=job.weight_decay, fused=GPU, **more)
        total = steps * max(job.epochs)
        self.schedule = CosineAnnealingLR(self.optimizer, total) if job.schedule == "cosine" else None
        self.mean, self.std = (torch.tensor(values, device=DEVICE) for values in (normalizer.mean, normalizer.std))
        self.scale, self.losses = normalizer.scale, torch.empty(steps, device=DEVICE)
        self.graph, self.eager = None, EAGER
        self.aside = torch.cuda.Stream() if GPU else None  # where PyTorch wants what precedes a recording

    def _input(self, images: torch.Tensor) -> torch.Tensor:
        return ((images.float() * self.scale - self.mean) / self.std).permute(0, 3, 1, 2)

    def _logits(self, network: nn.Module, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(DEVICE.type, self.low, enabled=self.low is not None):
            return network(x).float()

    def _backward(self, x: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        x = x if x.is_floating_point() else self._input(x)
        loss = loss_of(self.job.loss, self._logits(self.network, x), masks.long())
        loss.backward()
        return loss.detach()

    def _gradients(self, *batch: torch.Tensor) -> torch.Tensor:
        """The loss of a batch, of uint8 images or of finished input; its gradients are left in the parameters."""
        whole = GPU and len(batch[0]) == self.job.batch
        if not whole or self.eager:
            self.eager -= whole
            if self.aside is None:
                return self._backward(*batch)
            self.aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.aside):
                loss = self._backward(*batch)
            torch.cuda.current_stream().wait_stream(self.aside)
            return loss
        if self.graph is None:
            self.own, self.graph = [torch.empty_like(given) for given in batch], torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):  # which runs nothing: the batch norms' statistics stay
                self.loss = self._backward(*self.own)
            self.gradients = [p.grad for p in self.network.parameters()]
        for mine, given in zip(self.own, batch, strict=True):
            mine.copy_(given)
        self.graph.replay()
        for p, gradient in zip(self.network.parameters(), self.gradients, strict=True):
            p.grad = gradient  # a smaller batch has put its own there
        return self.loss

    def epoch(self, loader: Loader, number: int) -> list[float]:
        """Train on an epoch's batches; the loss of each."""
        self.network.train()
        for i, batch in enumerate(loader.epoch(number)):
            images, masks, *drawn = buffers(self.job, number, batch)
            if self.augmentation is not None:
                ours, masks = self.normalizer.augmented(self.augmentation, images, masks, *drawn)
                x = ours.torch()
            else:
                x = images
            self.losses[i] = self._gradients(x, masks)
            self.optimizer.step()
            if self.schedule is not None:
                self.schedule.step()
            if self.averaged is not None:
                self.averaged.update_parameters(self.network)
        return self.losses.tolist()

    def _shown_logits(self, images: np.ndarray) -> torch.Tensor:
        self.shown.eval()
        with torch.inference_mode():
            return self._logits(self.shown, self._input(to_device(images)))

    def logits(self, images: np.ndarray) -> np.ndarray:
        """From (N, S, S, 3) to (N, 2, S, S)."""
        return self._shown_logits(images).cpu().numpy()

    def score(self, loader: Loader) -> Metrics:
        """IoU, Dice and pixel accuracy on a loader's images."""
        counts = torch.zeros(5, dtype=torch.int64, device=DEVICE)  # the fifth: of ignored pixels
        for batch in loader.epoch(0):
            masks, found = to_device(batch.masks).long(), self._shown_logits(batch.images).argmax(1)
            counts += torch.bincount(torch.where(masks == IGNORE, 4, 2 * masks + found).flatten(), minlength=5)
        return Metrics.from_matrix(counts[:4].view(2, 2).tolist())

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy on the device of those that are scored."""
        return {name: tensor.clone() for name, tensor in self.shown.state_dict().items()}

    def restore(self, weights: dict[str, torch.Tensor]) -> None:
        """Take up a copy."""
        self.shown.load_state_dict(weights)
