"""A network with its optimizer and loss, by tritonnet; `torch_learner` has the same by PyTorch."""

from dataclasses import fields

import numpy as np
import torch

import tritonnet as tn
from oxford_pets.jobs import Job
from tritonnet.data import Augmentation, Loader
from tritonnet.data.loader import Batch
from tritonnet.kernels import fault, runtime
from tritonnet.nn.capture import Captured
from tritonnet.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tritonnet.train import Config, Metrics
from tritonnet.train.batches import Normalizer, to_device
from tritonnet.train.build import build_network, build_optimizer
from tritonnet.train.evaluation import score
from tritonnet.train.objective import Objective
from tritonnet.train.schedule import Schedule


def config(job: Job) -> Config:
    """What `tritonnet train` calls the job."""
    shared = {field.name for field in fields(Job)} & {field.name for field in fields(Config)} - {"data", "epochs"}
    return Config(epochs=max(job.epochs), batch_size=job.batch, **{name: getattr(job, name) for name in shared})


def build(job: Job) -> tn.models.Segmenter:
    """The network of a job with the initial weights of its seed, for RGB images and two classes."""
    tn.manual_seed(job.seed)
    return build_network(config(job), 3, 2)


def buffers(job: Job, epoch: int, batch: Batch) -> list[torch.Tensor]:
    """A batch on the device: its images, its masks, and what their augmentation, if the job has one, has drawn for them."""
    augmentation = Augmentation.parse(job.augment)
    drawn = augmentation.draw(job.seed, epoch, batch.indices, job.size) if augmentation is not None else ()
    return [to_device(array) for array in (batch.images, batch.masks, *drawn)]


class Learner:
    """Ours: the parts of `tritonnet train`. `steps` is the number of steps in an epoch."""

    def __init__(self, job: Job, normalizer: Normalizer, steps: int) -> None:
        self.job, self.normalizer, self.steps = job, normalizer, steps
        self.network, self.augmentation = build(job), Augmentation.parse(job.augment)
        average = get_ema_multi_avg_fn(job.ema)
        self.averaged = AveragedModel(self.network, None, None, average, True) if job.ema else None
        self.objective = Objective(2, job.loss)
        self.optimizer = build_optimizer(config(job), self.network)
        self.schedule = Schedule(config(job), self.optimizer, steps)
        # on a GPU, one CUDA graph
        self.captured = Captured(self._update, self.network, self.optimizer.publish, alone=True)
        self.losses = runtime.empty((steps,), torch.float32)

    def _update(self, images: torch.Tensor, masks: torch.Tensor, *drawn: torch.Tensor) -> tn.Tensor:
        if self.augmentation is not None:
            x, masks = self.normalizer.augmented(self.augmentation, images, masks, *drawn)
        else:
            x = self.normalizer(images)
        loss = self.objective.loss(self.network(x), tn.Tensor(masks))
        loss.backward()
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)
        self.optimizer.zero_grad()
        return loss.detach()

    def epoch(self, loader: Loader, number: int) -> list[float]:
        """Train on an epoch's batches; the loss of each."""
        self.network.train()
        for i, batch in enumerate(loader.epoch(number)):
            self.schedule.set(self.schedule.rate(number * self.steps + i))
            self.losses[i].copy_(self.captured(*buffers(self.job, number, batch)).data)
        losses = tn.Tensor(self.losses).numpy().tolist()  # waits for the device
        fault.check()
        return losses

    @property
    def shown(self) -> tn.models.Segmenter:
        """The network that is scored: the averaged one, if there is one."""
        if self.averaged is None:
            return self.network
        self.averaged.changed()  # a recorded step does not say so
        return self.averaged.module

    def score(self, loader: Loader) -> Metrics:
        """IoU, Dice and pixel accuracy on a loader's images."""
        return score(self.shown, self.normalizer, loader, self.objective)[1]

    def logits(self, images: np.ndarray) -> np.ndarray:
        """From (N, S, S, 3) to (N, 2, S, S)."""
        network = self.shown
        with network.evaluating() as forward:
            return forward(self.normalizer(to_device(images))).numpy()

    def weights(self) -> dict[str, tn.Tensor]:
        """A copy on the device of those that are scored."""
        state = self.shown.state_dict()
        return {name: tn.Tensor(torch.empty_like(t.data).copy_(t.data)) for name, t in state.items()}

    def restore(self, weights: dict[str, tn.Tensor]) -> None:
        """Take up a copy."""
        self.shown.load_state_dict(weights)
