"""The training loop: from a configuration to a run folder.

Nothing in a step waits for the device: images go there as bytes, the loss is summed there, and the sum is read once an
epoch, together with the error flag. Everything random (weights, order, flips) follows from the seed, the epoch and the
image, and the learning rate from the step, so a run that goes on from `last.h5` ends with the bits of one that was
never stopped.
"""

import json
import math
import shlex
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tritonnet import io, models, optim
from tritonnet.autograd import Tensor, no_grad, precision
from tritonnet.data import IGNORE, DataError, Dataset, Loader, channel_statistics, class_weights
from tritonnet.kernels import runtime, tile_table
from tritonnet.ops.random import manual_seed
from tritonnet.train.batches import Normalizer, to_device
from tritonnet.train.config import Config
from tritonnet.train.evaluation import check_some_pixel_counts, open_data, score
from tritonnet.train.folder import Row, RunFolder, better, rounded
from tritonnet.train.graph import CapturedStep
from tritonnet.train.objective import Objective
from tritonnet.train.pictures import draw_curves
from tritonnet.train.prediction import write_samples
from tritonnet.train.report import Listener
from tritonnet.train.trained import Trained

__all__ = ["Run", "resume", "train"]

SAMPLES = 8  # pictures in samples/


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, a row of metrics.csv an epoch, and the row whose weights `best.h5` holds."""

    folder: Path
    config: Config
    history: list[Row]
    best: Row
    validated: int  # images


class Training:
    """The state of a run between steps."""

    def __init__(self, config: Config, folder: RunFolder, listener: Listener) -> None:
        self.config, self.folder, self.listener = config, folder, listener
        manual_seed(config.seed)
        self.dataset = open_data(config)
        for note in self.dataset.notes:
            listener.message(note)
        self.train_indices, self.val_indices = _splits(self.dataset, config)
        self.network = build(config, self.dataset)
        mean, std = channel_statistics(self.dataset, self.train_indices)
        for indices in (self.train_indices, self.val_indices):
            check_some_pixel_counts(self.dataset, indices, config.data or "made cells")
        self.network.set_normalization(mean, std)
        if config.class_weights == "auto":
            weights = ",".join(f"{weight:g}" for weight in class_weights(self.dataset, self.train_indices))
            config = self.config = replace(config, class_weights=weights)
            listener.message(f"class weights {weights}: pixels / (classes * pixels of the class) of the training masks")
        card = {
            "model": self.network.config, "data": self.dataset.config(), "mean": list(mean), "std": list(std),
            "precision": config.precision, "run": asdict(config),
        }  # fmt: skip
        self.trained = Trained(self.network, card)
        self.normalizer = Normalizer(mean, std, self.dataset.scale)
        self.objective = Objective(self.network.num_classes, config.loss, config.class_weights)
        self.optimizer = build_optimizer(config, self.network)
        self.captured = CapturedStep(self.step, self.optimizer.publish)
        self.loader = Loader(
            self.dataset,
            self.train_indices,
            config.batch_size,
            seed=config.seed,
            hflip=config.flips,
            vflip=config.flips,
        )
        self.val_loader = Loader(self.dataset, self.val_indices, config.batch_size, shuffle=False)
        self.steps = config.epochs * len(self.loader)
        self.history: list[Row] = []
        self.best: Row | None = None
        self.best_state: dict[str, Tensor] | None = None  # the weights of `best`, until best.h5 holds them
        self.clock: float | None = None  # when the first step was over

    def step(self, images: torch.Tensor, masks: torch.Tensor) -> Tensor:
        """One update from buffers of images (N, S, S, C) and masks (N, S, S) uint8; the loss stays on the device."""
        loss = self.objective.loss(self.network(self.normalizer(images)), Tensor(masks))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if self.config.schedule == "constant":
            return self.config.lr
        done = step / self.steps
        if self.config.max_seconds and self.clock is not None:
            done = max(done, (time.perf_counter() - self.clock) / self.config.max_seconds)
        return 0.5 * self.config.lr * (1.0 + math.cos(math.pi * min(done, 1.0)))

    def out_of_time(self) -> bool:
        """Whether the configured time since the first step has passed."""
        limit = self.config.max_seconds
        return bool(limit) and self.clock is not None and time.perf_counter() - self.clock > limit

    def run(self) -> Run:
        """Train the epochs that are left and finish the folder."""
        config, first = self.config, len(self.history)
        before = self.history[-1]["seconds"] if self.history else 0.0
        self.listener.message(
            f"{config.model}, {sum(p.numel() for p in self.network.parameters()):,} parameters, {config.precision}; "
            f"{len(self.train_indices)} images to train on, {len(self.val_indices)} to validate, "
            f"{config.size} x {config.size}; run folder {self.folder.path}"
        )
        self.listener.begin(first * len(self.loader), self.steps, config.epochs, config.max_seconds)
        start = saved = time.perf_counter()
        try:
            with precision(config.precision):
                for epoch in range(first, config.epochs):
                    row = self.epoch(epoch)
                    row["seconds"] = rounded(before + time.perf_counter() - start)
                    self.history.append(row)
                    if better(row, self.best):
                        self.best, self.best_state = row, _copies(self.network)
                    self.folder.write_metrics(self.history)
                    self.listener.epoch(row)
                    over = epoch + 1 == config.epochs or self.out_of_time()
                    if over or time.perf_counter() - saved >= config.checkpoint_seconds:
                        self.checkpoint()
                        saved = time.perf_counter()
                    if over:
                        break
        except KeyboardInterrupt:
            self.listener.end()
            saved_one = f"go on with: tritonnet train --resume {shlex.quote(str(self.folder.path))}"
            self.listener.message(f"stopped; {saved_one if self.folder.last.exists() else 'nothing was saved yet'}")
            raise
        finally:
            self.listener.end()
        assert self.best is not None
        best = Trained.load(self.folder.best)
        write_samples(self.folder.samples, best, self.dataset, self.val_indices[:SAMPLES])
        return Run(self.folder.path, config, self.history, self.best, len(self.val_indices))

    def epoch(self, epoch: int) -> Row:
        """Train on every image once, then validate; a row of metrics.csv but for `seconds`."""
        start = time.perf_counter()
        self.network.train()
        total, images, step, rate = Tensor(runtime.zeros((), torch.float32)), 0, epoch * len(self.loader), 0.0
        for batch in self.loader.epoch(epoch):
            if batch.masks.min() == IGNORE:  # no pixel counts: nothing to learn, and a mean over nothing is NaN
                step += 1
                continue
            rate = self.learning_rate(step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss = self.captured(to_device(batch.images), to_device(batch.masks))
            with no_grad():
                total = total + loss * len(batch.images)
            images, step = images + len(batch.images), step + 1
            if self.clock is None:
                if runtime.device().type == "cuda":
                    torch.cuda.synchronize()
                self.clock = time.perf_counter()
            self.listener.step(step, images / (time.perf_counter() - start))
            if self.out_of_time():
                break
        train_loss = total.item() / max(images, 1)
        speed = images / (time.perf_counter() - start)
        val_loss, metrics = score(self.network, self.normalizer, self.val_loader, self.objective)
        row = {
            "epoch": epoch + 1, "train_loss": train_loss, "val_loss": val_loss,
            "iou": metrics.iou, "dice": metrics.dice, "pixel_accuracy": metrics.pixel_accuracy,
            "learning_rate": rate, "images_per_second": speed,
        }  # fmt: skip
        return {name: rounded(value) for name, value in row.items()}

    def checkpoint(self) -> None:
        """Write the curves, best.h5 if it changed, and last.h5: all that `restore` needs."""
        draw_curves(self.folder.curves, self.history)
        if self.best_state is not None:
            self.trained.save(self.folder.best, state=self.best_state)
            self.best_state = None
        assert self.best is not None
        names = [name for name, _ in self.network.named_parameters()]
        slots = {
            slot: {names[index]: tensor.numpy() for index, tensor in tensors.items()}
            for slot, tensors in self.optimizer.state_slots().items()
        }
        progress = {
            "epoch": len(self.history), "step": len(self.history) * len(self.loader), "position": 0,
            "seed": self.config.seed, "best": int(self.best["epoch"]), "tiles": tile_table.chosen(),
        }  # fmt: skip
        self.trained.save(self.folder.last, optimizer=slots, progress=progress)

    def restore(self) -> None:
        """Take up the state that last.h5 holds.

        Raises:
            DataError, ModelFileError, Refused: the folder's files do not fit together.
        """
        file = io.load_model(self.folder.last)
        if file.progress is None or file.optimizer is None:
            raise DataError(
                f"{self.folder.last}: must hold the optimizer's state and the progress; is it a copy of best.h5?"
            )
        now = json.loads(json.dumps(self.trained.card))  # tuples become lists, as in the file
        if any(file.config[key] != now[key] for key in ("data", "mean", "std")):
            raise DataError(
                f"{self.config.data}: the images or masks changed since the run was stopped; start a new run"
            )
        io.load_model(self.folder.best, training=False)  # the run ends with it: refuse a lost or damaged one now
        tile_table.pin(file.progress.get("tiles", {}))  # other tiles would round otherwise
        self.network.load_state_dict(file.model)
        positions = {name: index for index, (name, _) in enumerate(self.network.named_parameters())}
        slots = {s: {positions[name]: array for name, array in arrays.items()} for s, arrays in file.optimizer.items()}
        self.optimizer.load_state_slots(slots)
        self.history = self.folder.read_metrics(int(file.progress["epoch"]))
        self.best = self.history[int(file.progress["best"]) - 1]


def build(config: Config, dataset: Dataset) -> models.Segmenter:
    """The network of a configuration, for the channels and classes of the data.

    Raises:
        Refused: a sigmoid head for more than two classes, or images too small for the network.
    """
    least = 4 if config.model == "poster" else 2**config.depth
    if config.size < least:
        runtime.refuse("train", f"size must be at least {least} for this network, got {config.size}")
    outputs = dataset.num_classes
    if config.head == "sigmoid":
        if outputs != 2:
            runtime.refuse("train", f"head sigmoid is for 2 classes, the masks hold {outputs}; use --head softmax")
        outputs = 1
    if config.model == "poster":
        return models.PosterUNet(dataset.channels, outputs)
    return models.UNet(dataset.channels, outputs, config.base_channels, config.depth, config.upsample)


def build_optimizer(config: Config, network: models.Segmenter) -> Any:
    """The optimizer of a configuration over the network's parameters."""
    decay = config.weight_decay
    if config.optimizer == "sgd":
        return optim.SGD(network.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=decay)
    kind = optim.AdamW if config.optimizer == "adamw" else optim.Adam
    return kind(network.parameters(), lr=config.lr, weight_decay=decay)


def _splits(dataset: Dataset, config: Config) -> tuple[tuple[int, ...], tuple[int, ...]]:
    train, val = dataset.splits["train"], dataset.splits["val"]
    for name, indices in (("train", train), ("validate", val)):
        if not indices:
            raise DataError(
                f"{config.data or 'made cells'}: at least one image must be left to {name} with --val {config.val}"
            )
    return train, val


def _copies(network: models.Segmenter) -> dict[str, Tensor]:
    """The network's present state in buffers of its own."""
    state = network.state_dict()
    return {name: Tensor(runtime.empty(tuple(t.data.shape), t.dtype).copy_(t.data)) for name, t in state.items()}


def train(config: Config, listener: Listener | None = None, *, replacing: bool = False) -> Run:
    """Train anew, into `config.out`.

    Args:
        config: what to train; `Config.for_machine()` has defaults for this machine.
        listener: is told what happens; None prints plain lines.
        replacing: take the place of an earlier run in that folder.

    Raises:
        DataError, Refused: what is wrong with the files or the configuration.
        Fault: a mask value outside the classes, or a loss that is not finite.
    """
    folder = RunFolder(config.out, fresh=True, replacing=replacing)
    data = str(Path(config.data).resolve()) if config.data else ""
    val = str(Path(config.val).resolve()) if Path(config.val).is_file() else config.val
    training = Training(replace(config, out=str(folder.path), data=data, val=val), folder, listener or Listener())
    folder.make()
    training.config.save(folder.config)
    return training.run()


def resume(folder: str | Path, listener: Listener | None = None) -> Run:
    """Go on with a stopped run from its `last.h5`, to the same bits as if it had not been stopped.

    Raises:
        DataError, ModelFileError, Refused: the folder is no run, or its files do not fit together.
    """
    run = RunFolder(folder, fresh=False)
    training = Training(replace(Config.load(run.config), out=str(folder)), run, listener or Listener())
    training.restore()
    return training.run()
