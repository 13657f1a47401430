"""The training loop: from a configuration to a run folder.

Nothing in a step waits for the device: images go there as bytes, the losses are gathered there and read once an epoch,
together with the error flag. Everything random (weights, order, flips) follows from the seed, the epoch and the image,
and the learning rate from the step and the epochs before, so a run that goes on from `last.h5`, after whichever step,
ends with the bits of one that was never stopped.
"""

import math
import shlex
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn, cast

import numpy as np
import torch

from tritonnet import models
from tritonnet.autograd import Tensor, precision
from tritonnet.data import IGNORE, Augmentation, Loader, channel_statistics, class_weights
from tritonnet.data.loader import Batch
from tritonnet.kernels import fault, runtime
from tritonnet.kernels.fault import Fault
from tritonnet.nn.capture import Captured
from tritonnet.nn.utils import clip_grad_norm_
from tritonnet.ops.random import manual_seed
from tritonnet.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tritonnet.train import checkpoint, memory
from tritonnet.train.batches import Normalizer, to_device
from tritonnet.train.build import build, build_optimizer, splits
from tritonnet.train.config import Config
from tritonnet.train.evaluation import check_some_pixel_counts, open_data, score
from tritonnet.train.finetune import initialise
from tritonnet.train.folder import Row, RunFolder, better, rounded
from tritonnet.train.objective import Objective
from tritonnet.train.prediction import write_samples
from tritonnet.train.report import Listener, counted
from tritonnet.train.schedule import Schedule
from tritonnet.train.stop import Stop
from tritonnet.train.trained import Trained
from tritonnet.train.waiting import Waiting

__all__ = ["Run", "resume", "train"]

SAMPLES = 8  # pictures in samples/
FEW_STEPS, FEW_EPOCHS = 150, 3  # what `epochs` 0 trains at least
LOOK_SECONDS = 10.0  # how often a long epoch waits for the device to see whether the losses are finite


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
        self.train_indices, self.val_indices = splits(self.dataset, config)
        self.network = build(config, self.dataset)
        mean, std = channel_statistics(self.dataset, self.train_indices)
        for indices in (self.train_indices, self.val_indices):
            check_some_pixel_counts(self.dataset, indices, config.data or "made cells")
        self.network.set_normalization(mean, std)
        if config.class_weights == "auto":
            weights = ",".join(f"{weight:g}" for weight in class_weights(self.dataset, self.train_indices))
            config = self.config = replace(config, class_weights=weights)
            listener.message(f"class weights {weights}: pixels / (classes * pixels of the class) of the training masks")
        size = config.batch_size * config.accumulate  # of a step
        if not config.epochs:
            steps = -(-len(self.train_indices) // size)  # an epoch
            config = self.config = replace(config, epochs=max(FEW_EPOCHS, -(-FEW_STEPS // steps)))
            listener.message(f"{config.epochs} epochs of {counted(steps, 'step')}; --epochs chooses otherwise")
        card = {
            "model": self.network.config, "data": self.dataset.config(), "mean": list(mean), "std": list(std),
            "precision": config.precision, "run": asdict(config),
        }  # fmt: skip
        self.trained = Trained(self.network, card)
        self.normalizer = Normalizer(mean, std, self.dataset.scale)
        self.augmentation = Augmentation.parse(config.augment)
        self.objective = Objective(self.network.num_classes, config.loss, config.class_weights)
        self.optimizer = build_optimizer(config, self.network)
        average = get_ema_multi_avg_fn(config.ema)
        self.averaged = AveragedModel(self.network, None, None, average, True) if config.ema else None
        self.captured = Captured(self.step, self.network, self.optimizer.publish, alone=True)
        flips = config.flips
        self.loader = Loader(self.dataset, self.train_indices, size, seed=config.seed, hflip=flips, vflip=flips)
        self.val_loader = Loader(self.dataset, self.val_indices, config.batch_size, shuffle=False)
        self.schedule = Schedule(config, self.optimizer, len(self.loader))
        self.stop, self.busy = Stop(), False  # busy: what is held now must not be saved
        self.history: list[Row] = []
        self.best: Row | None = None
        self.best_state: dict[str, Tensor] | None = None  # the weights of `best`, until best.h5 holds them
        self.steps_done, self.position = 0, 0  # position: images of the present epoch that were taken
        self.losses = runtime.empty((len(self.loader),), torch.float32)  # of its steps
        self.images: list[int] = []  # that each of these steps learnt from
        self.rate = 0.0  # the learning rate of the last step
        self.clock: float | None = None  # when the first step was over
        self.before, self.start = 0.0, time.perf_counter()  # seconds of the run until it was stopped; the present start
        self.saved = self.start
        self.waiting = Waiting()

    # --- a step ---

    def step(self, images: torch.Tensor, masks: torch.Tensor, shares: torch.Tensor, *drawn: torch.Tensor) -> Tensor:
        """One update from buffers of images (N, S, S, C) and masks (N, S, S) uint8; the loss stays on the device.

        The images are taken `batch_size` at a time, and their losses and gradients added in the `shares` (parts,).
        They are augmented as was `drawn`, if anything was.
        """
        losses = []
        for number, first in enumerate(range(0, len(images), self.config.batch_size)):
            part, share = slice(first, first + self.config.batch_size), Tensor(shares[number])
            if self.augmentation is not None and drawn:
                own = (buffer[part] for buffer in (images, masks, *drawn))
                x, labels = self.normalizer.augmented(self.augmentation, *own)
            else:
                x, labels = self.normalizer(images[part]), masks[part]
            loss = self.objective.loss(self.network(x), Tensor(labels))
            loss.backward(share)
            losses.append(loss.detach() * share)
        if self.config.clip:
            clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)
        self.optimizer.zero_grad()
        return sum(losses[1:], losses[0])

    def update(self, batch: Batch) -> None:
        """Make the step of a batch, without the parts of it in which no pixel counts: a mean over nothing is NaN."""
        size = self.config.batch_size
        counts = np.add.reduceat((batch.masks != IGNORE).sum(axis=(1, 2)), np.arange(0, len(batch.masks), size))
        live = np.repeat(counts > 0, size)[: len(batch.masks)]
        kept = slice(None) if live.all() else live
        images, masks, indices = (array[kept] for array in (batch.images, batch.masks, batch.indices))
        loss = Tensor(runtime.zeros((), torch.float32))
        if len(images):
            # a part's loss is a mean over its pixels, the whole one over all; counted before they are augmented
            shares = (counts[counts > 0] / counts.sum()).astype(np.float32)
            self.rate = self.schedule.rate(self.steps_done, self.time_passed())
            self.schedule.set(self.rate)
            buffers = [images, masks, shares]
            if self.augmentation is not None:
                buffers += self.augmentation.draw(self.config.seed, len(self.history), indices, self.config.size)
            found = memory.guarded(lambda: self.captured(*map(to_device, buffers)))
            loss = self.refuse_batch(images, masks) if found is None else found
        self.losses[len(self.images)].copy_(loss.data)
        self.images.append(len(images))

    def refuse_batch(self, images: np.ndarray, masks: np.ndarray) -> NoReturn:
        """Say which batch fits the memory, found with the first of these images."""
        self.captured.clear()

        def attempt(count: int) -> int | None:
            self.optimizer.zero_grad()
            parts = (images[:count], masks[:count], np.ones(1, np.float32))
            return memory.peak(lambda: self.step(*map(to_device, parts)))

        size = min(self.config.batch_size, len(images))
        runtime.refuse("train", memory.advice(attempt, size, self.config.accumulate, memory.available()))

    # --- time ---

    def time_passed(self) -> float:
        """The share of `max_seconds` since the first step; 0 without a limit."""
        limit = self.config.max_seconds
        return (time.perf_counter() - self.clock) / limit if limit and self.clock is not None else 0.0

    def seconds(self) -> float:
        """Seconds of the whole run, as it was before it was stopped and since."""
        return rounded(self.before + time.perf_counter() - self.start)

    # --- losses ---

    def read_losses(self) -> list[float]:
        """The losses of the present epoch's steps so far; waits for the device.

        Raises:
            Fault: bad data was met; the message says in which step, and what to try.
        """
        count = len(self.images)
        losses: list[float] = Tensor(self.losses[:count]).numpy().tolist() if count else []
        try:
            fault.check()
        except Fault as error:
            bad = next((number for number, loss in enumerate(losses) if not math.isfinite(loss)), None)
            raise self.advised(error, None if bad is None else self.steps_done - count + bad) from None
        return losses

    def advised(self, error: Fault, step: int | None) -> Fault:
        """The error with where it was, what to try, and what is kept."""
        where = f"first in step {step + 1} of" if step is not None else "in"
        rate = self.rate if step is None else self.schedule.rate(step, self.time_passed())
        text = f"{error} ({where} epoch {len(self.history) + 1}, learning rate {rate:.3g})"
        text += f"; try --lr {self.config.lr / 10:.3g}, --clip 1 or --warmup {max(len(self.loader), 100)}"
        if self.best is not None:
            best = shlex.quote(str(self.folder.best))
            text += f"; {best} is kept, of epoch {self.best['epoch']:.0f}: --init {best} starts from it"
        return Fault(text)

    # --- the run ---

    def run(self) -> Run:
        """Train the epochs that are left and finish the folder."""
        config = self.config
        self.listener.message(
            f"{config.model}, {sum(p.numel() for p in self.network.parameters()):,} parameters, {config.precision}; "
            f"{counted(len(self.train_indices), 'image')} to train on, {len(self.val_indices)} to validate, "
            f"{config.size} x {config.size}; run folder {self.folder.path}"
        )
        self.listener.begin(self.steps_done, config.epochs * len(self.loader), config.epochs, config.max_seconds)
        self.start = self.saved = time.perf_counter()
        try:
            with self.stop, precision(config.precision):
                self.epochs()
        except KeyboardInterrupt:
            self.listener.message(self.stopped())
            raise
        finally:
            self.listener.end()
            checkpoint.save_best(self)
        assert self.best is not None
        self.listener.message(f"the steps waited {100 * self.waiting.share():.1f} % of their time for images")
        best = Trained.load(self.folder.best)
        found = write_samples(self.folder.samples, best, self.dataset, self.val_indices[:SAMPLES])
        where = "samples/" if not found and self.dataset.num_classes > 2 else ""
        if where or not self.best["iou"] > 0:
            look = f"; look at the masks with: tritonnet data check {shlex.quote(config.data)}" if config.data else ""
            self.listener.message(
                f"no object was found in {where or 'the validation images'}; try --epochs {3 * config.epochs} or another "
                f"--lr than {config.lr:g}{look}"
            )
        return Run(self.folder.path, config, self.history, self.best, len(self.val_indices))

    def epochs(self) -> None:
        """Train epoch by epoch, until the last, the time limit, or the end of the patience."""
        over = self.over()
        while not over:
            row = self.epoch(len(self.history))
            row["seconds"] = self.seconds()
            self.busy = True
            self.history.append(row)
            self.position, self.images = 0, []
            self.steps_done = len(self.history) * len(self.loader)  # the time limit may have left some out
            self.schedule.epoch(row)
            if better(row, self.best):
                self.best, self.best_state = row, _copies(self.shown())
            self.busy = False
            self.folder.write_metrics(self.history)
            self.listener.epoch(row)
            over = self.over()
            self.save(at_once=over)
            if not over:
                self.stop.check()

    def save(self, *, at_once: bool = False) -> None:
        """Write best.h5 and last.h5, if it is time to."""
        if at_once or time.perf_counter() - self.saved >= self.config.checkpoint_seconds:
            checkpoint.save(self)
            self.saved = time.perf_counter()

    def over(self) -> bool:
        """Whether no epoch is to follow."""
        config = self.config
        if self.best is not None and config.patience:
            since = len(self.history) - int(self.best["epoch"])
            if since >= config.patience and len(self.history) < config.epochs:
                self.listener.message(f"no higher IoU for {since} epochs: stopped early")
                return True
        return len(self.history) >= config.epochs or self.time_passed() > 1.0

    def epoch(self, epoch: int) -> Row:
        """Train on the images of an epoch that are left, then validate; a row of metrics.csv but for `seconds`."""
        start = looked = time.perf_counter()
        taken = self.position
        self.network.train()
        self.waiting.ready()
        for batch in self.loader.epoch(epoch, self.position):
            self.busy = True
            self.waiting.go_on()
            self.update(batch)
            self.waiting.ready()
            self.steps_done, self.position = self.steps_done + 1, batch.position
            self.busy = False
            if self.clock is None:
                if runtime.device().type == "cuda":
                    torch.cuda.synchronize()
                self.clock = time.perf_counter()
            now = time.perf_counter()
            self.listener.step(self.steps_done, (self.position - taken) / (now - start))
            self.stop.check()
            self.save()
            if now - looked > LOOK_SECONDS:
                self.read_losses()
                self.waiting.add(0.0)
                looked = time.perf_counter()
            if self.time_passed() > 1.0:
                break
        losses = self.read_losses()
        seconds = time.perf_counter() - start
        self.waiting.add(seconds)
        speed = (self.position - taken) / seconds
        # augmentation may move every pixel that counts out of a batch: its mean is NaN without a fault, its gradient 0
        known = [(loss, count) for loss, count in zip(losses, self.images, strict=True) if math.isfinite(loss)]
        train_loss = math.fsum(map(math.prod, known)) / max(sum(count for _, count in known), 1)
        try:
            val_loss, metrics = score(self.shown(), self.normalizer, self.val_loader, self.objective)
        except Fault as error:
            raise self.advised(error, None) from None
        row = {
            "epoch": epoch + 1, "train_loss": train_loss, "val_loss": val_loss,
            "iou": metrics.iou, "dice": metrics.dice, "pixel_accuracy": metrics.pixel_accuracy,
            "learning_rate": self.rate, "images_per_second": speed,
        }  # fmt: skip
        return {name: rounded(value) for name, value in row.items()}

    def shown(self) -> models.Segmenter:
        """The network that is validated and kept in best.h5: the averaged one, if there is one."""
        if self.averaged is None:
            return self.network
        self.averaged.changed()  # a recorded step does not say so
        return cast(models.Segmenter, self.averaged.module)

    def stopped(self) -> str:
        """Save what a signal interrupted, and say how to go on."""
        again = f"go on with: tritonnet train --resume {shlex.quote(str(self.folder.path))}"
        if self.busy:  # its second signal: half a step cannot be saved
            return f"stopped within a step; {again}" if self.folder.last.exists() else "stopped; nothing was saved yet"
        checkpoint.save(self)
        return f"stopped after step {self.steps_done} and saved; {again}"


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
        KeyboardInterrupt(number): Ctrl-C or SIGTERM; what was reached is saved.
    """
    folder = RunFolder(config.out, fresh=True, replacing=replacing)
    data, init = (str(Path(path).resolve()) if path else "" for path in (config.data, config.init))
    val = str(Path(config.val).resolve()) if Path(config.val).is_file() else config.val
    config = replace(config, out=str(folder.path), data=data, init=init, val=val)
    training = Training(config, folder, listener or Listener())
    if config.init:
        initialise(training.network, config.init, training.listener.message)
    folder.make()
    training.config.save(folder.config)
    return training.run()


def resume(folder: str | Path, listener: Listener | None = None) -> Run:
    """Go on with a stopped run from its `last.h5`, to the same bits as if it had not been stopped.

    Raises:
        DataError, ModelFileError, Refused: the folder is no run, or its files do not fit together.
    """
    run = RunFolder(folder, fresh=False)
    training = Training(replace(Config.load(run.config), out=str(run.path)), run, listener or Listener())
    checkpoint.restore(training)
    if len(training.history) >= training.config.epochs:
        best = shlex.quote(str(run.best))
        training.listener.message(f"this run is finished; to train on from its weights: tritonnet train --init {best}")
    return training.run()
