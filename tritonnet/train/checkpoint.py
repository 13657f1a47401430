"""What best.h5 and last.h5 hold of a run, and how a stopped run takes it up again, in the middle of an epoch too."""

import json
from typing import TYPE_CHECKING

import numpy as np

from tritonnet import io
from tritonnet.data import DataError
from tritonnet.kernels import tile_table
from tritonnet.ops.random import get_state, set_state
from tritonnet.train.batches import to_device
from tritonnet.train.pictures import draw_curves

if TYPE_CHECKING:
    from tritonnet.train.training import Training

__all__ = ["restore", "save", "save_best"]

AVERAGE = "average"  # the slot of /optimizer in last.h5 that holds the running averages


def save_best(run: "Training") -> None:
    """Write best.h5 if the best weights changed since."""
    if run.best_state is not None:
        run.trained.save(run.folder.best, state=run.best_state)
        run.best_state = None


def save(run: "Training") -> None:
    """Write the curves, best.h5 if it changed, and last.h5: all that `restore` needs."""
    if run.history:
        draw_curves(run.folder.curves, run.history)
    save_best(run)
    names = [name for name, _ in run.network.named_parameters()]
    slots: dict[str, dict[str, np.ndarray]] = {
        slot: {names[index]: tensor.numpy() for index, tensor in tensors.items()}
        for slot, tensors in run.optimizer.state_slots().items()
    }
    if run.averaged is not None:
        slots[AVERAGE] = {name: tensor.numpy() for name, tensor in run.averaged.state_dict().items()}
    progress = {
        "epoch": len(run.history), "step": run.steps_done, "position": run.position, "losses": run.read_losses(),
        "images": run.images, "learning_rate": run.rate, "seconds": run.seconds(), "seed": run.config.seed,
        "random": get_state(), "best": int(run.best["epoch"]) if run.best else 0, "tiles": tile_table.chosen(),
    }  # fmt: skip
    run.trained.save(run.folder.last, optimizer=slots, progress=progress)


def restore(run: "Training") -> None:
    """Take up the state that last.h5 holds.

    Raises:
        DataError, ModelFileError, Refused: the folder's files do not fit together.
    """
    file = io.load_model(run.folder.last)
    if file.progress is None or file.optimizer is None:
        raise DataError(
            f"{run.folder.last}: must hold the optimizer's state and the progress; is it a copy of best.h5?"
        )
    now = json.loads(json.dumps(run.trained.card))  # tuples become lists, as in the file
    if any(file.config[key] != now[key] for key in ("data", "mean", "std")):
        raise DataError(f"{run.config.data}: the images or masks changed since the run was stopped; start a new run")
    for name in ("batch_size", "accumulate", "seed"):  # they decide what a step is
        was, wanted = file.config["run"][name], now["run"][name]
        if was != wanted:
            raise DataError(f"{run.folder.config}: {name} must be {was}, as it was, got {wanted}")
    progress = file.progress
    if progress["best"]:
        io.load_model(run.folder.best, training=False)  # the run ends with it: refuse a lost or damaged one now
    tile_table.pin(progress["tiles"])  # other tiles would round otherwise
    run.network.load_state_dict(file.model)
    average = file.optimizer.pop(AVERAGE, None)
    if run.averaged is not None and average is not None:
        run.averaged.load_state_dict(average)
    positions = {name: index for index, (name, _) in enumerate(run.network.named_parameters())}
    slots = {s: {positions[name]: array for name, array in arrays.items()} for s, arrays in file.optimizer.items()}
    run.optimizer.load_state_slots(slots)
    run.history = run.folder.read_metrics(int(progress["epoch"])) if progress["epoch"] else []
    run.best = run.history[int(progress["best"]) - 1] if progress["best"] else None
    for row in run.history:
        run.schedule.epoch(row)
    run.steps_done, run.position, run.rate = int(progress["step"]), int(progress["position"]), progress["learning_rate"]
    run.images = progress["images"]
    run.losses[: len(run.images)].copy_(to_device(np.array(progress["losses"], np.float32)))
    run.before = progress["seconds"]
    set_state(tuple(progress["random"]))
