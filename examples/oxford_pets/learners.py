"""A network with its optimizer and loss, by tritonnet; `torch_learner` has the same by PyTorch."""

from typing import Any

import numpy as np
import torch

import tritonnet as tn
from oxford_pets.jobs import Job
from tritonnet.data import Loader
from tritonnet.kernels import fault, runtime
from tritonnet.train import Metrics
from tritonnet.train.batches import Normalizer, to_device
from tritonnet.train.evaluation import score
from tritonnet.train.graph import CapturedStep
from tritonnet.train.objective import Objective

MOMENTUM = 0.9  # of SGD


def build(job: Job) -> tn.models.Segmenter:
    """The network of a job with the initial weights of its seed, for RGB images and two classes."""
    tn.manual_seed(job.seed)
    if job.model == "resunet":
        return tn.models.ResUNet(3, 2, job.base_channels, job.depth)
    more = {"skip": job.skip} if job.skip != "concat" else {}
    return tn.models.UNet(3, 2, job.base_channels, job.depth, job.upsample, **more)


class Learner:
    """Ours. `steps` is the number of steps in an epoch."""

    def __init__(self, job: Job, normalizer: Normalizer, steps: int) -> None:
        self.network, self.normalizer = build(job), normalizer
        self.objective = Objective(2, job.loss)
        parameters = self.network.parameters()
        if job.optimizer == "sgd":
            self.optimizer: Any = tn.optim.SGD(parameters, lr=job.lr, momentum=MOMENTUM)
        else:
            self.optimizer = tn.optim.Adam(parameters, lr=job.lr)
        self.captured = CapturedStep(self._update, self.optimizer.publish)  # on a GPU, one CUDA graph
        self.losses = runtime.empty((steps,), torch.float32)

    def _update(self, images: torch.Tensor, masks: torch.Tensor) -> tn.Tensor:
        loss = self.objective.loss(self.network(self.normalizer(images)), tn.Tensor(masks))
        with self.optimizer.within_backward():
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def epoch(self, loader: Loader, number: int) -> list[float]:
        """Train on an epoch's batches; the loss of each."""
        self.network.train()
        for i, batch in enumerate(loader.epoch(number)):
            self.losses[i].copy_(self.captured(to_device(batch.images), to_device(batch.masks)).data)
        losses = tn.Tensor(self.losses).numpy().tolist()  # waits for the device
        fault.check()
        return losses

    def score(self, loader: Loader) -> Metrics:
        """IoU, Dice and pixel accuracy on a loader's images."""
        return score(self.network, self.normalizer, loader, self.objective)[1]

    def masks(self, loader: Loader) -> np.ndarray:
        """The class of each pixel: (N, S, S) uint8."""
        with self.network.evaluating():
            parts = [self.network(self.normalizer(to_device(b.images))).argmax(1).numpy() for b in loader.epoch(0)]
        return np.concatenate(parts).astype(np.uint8)

    def weights(self) -> dict[str, tn.Tensor]:
        """A copy on the device."""
        state = self.network.state_dict()
        return {name: tn.Tensor(torch.empty_like(t.data).copy_(t.data)) for name, t in state.items()}

    def restore(self, weights: dict[str, tn.Tensor]) -> None:
        """Take up a copy."""
        self.network.load_state_dict(weights)
