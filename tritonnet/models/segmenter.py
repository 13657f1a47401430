"""What every segmentation network offers beside its forward: summary, predict, a small fit, and how to build it again.

The training program (`tritonnet train`) lives above, in `tritonnet.train`; `fit` is for a few arrays in memory.
"""

import random
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch

from tritonnet.autograd import Tensor, from_numpy, no_grad, storage_dtype, tensor
from tritonnet.kernels import runtime
from tritonnet.kernels.argmax import argmax_fwd
from tritonnet.kernels.convert import image_input
from tritonnet.kernels.runtime import refuse
from tritonnet.models.summary import table
from tritonnet.nn import MaxPool2d, Module
from tritonnet.nn import functional as F
from tritonnet.nn.capture import Captured
from tritonnet.optim import Adam

__all__ = ["Segmenter"]

IGNORE = 255  # a mask's value for pixels that do not count

# of each network that was evaluated; beside it, so that a copy of the network has its own
_forwards: "weakref.WeakKeyDictionary[Segmenter, Captured]" = weakref.WeakKeyDictionary()


class Segmenter(Module):
    """Base of the networks from images (N, C, H, W) to logits (N, num_classes, H, W).

    The images that `model(x)` takes are normalised floats: (image / 255 - model.mean) / model.std, channel by channel.
    """

    def __init__(self, kind: str, **arguments: Any) -> None:
        super().__init__()
        for name, value in arguments.items():
            if isinstance(value, int) and value < 1:
                refuse(type(self).__name__, f"{name} must be at least 1, got {value}")
        self.config: dict[str, Any] = {"model": kind, **arguments}
        self.in_channels, self.num_classes = int(arguments["in_channels"]), int(arguments["num_classes"])
        self.set_normalization((0.0,) * self.in_channels, (1.0,) * self.in_channels)

    def set_normalization(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set each channel's mean and standard deviation over the training images scaled to 0..1.

        `fit` and `predict` subtract and divide uint8 images by them; float images pass as they are.
        """
        if len(mean) != self.in_channels or len(std) != self.in_channels or min(std) <= 0:
            wanted = f"mean and std must be {self.in_channels} numbers, std above 0"
            refuse("set_normalization", f"{wanted}, got {mean}, {std}")
        self.mean, self.std = tuple(float(m) for m in mean), tuple(float(s) for s in std)

    # --- for the subclasses ---

    def built(self) -> None:
        """Remember what the children are: the end of a subclass's __init__."""
        self._kinds = self._children_now()

    def is_as_built(self) -> bool:
        """Whether fused kernels may stand for the children: none was exchanged for another kind, none has a hook."""
        return self._children_now() == self._kinds

    def _children_now(self) -> list[Any]:
        """Every module's type, and of a pooling its window too; None where a hook must see the module called."""
        modules = list(self.modules())[1:]
        return [None if m._hooks else m.extra_repr() if isinstance(m, MaxPool2d) else type(m) for m in modules]

    def check(self, x: Tensor, least: int) -> None:
        """Refuse images of another rank, other channels, or smaller than `least` pixels a side."""
        wanted = f"images must be (N, {self.in_channels}, H, W) with H and W at least {least}"
        if x.ndim != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) < least:
            got = str(x.shape).replace("(0,", "(N,")  # `summary` sends an empty batch
            refuse(type(self).__name__, f"{wanted}, got shape {got}")

    def whole(self, x: Tensor) -> Tensor:
        """What `summary` shows: the forward, and what the published table has behind it."""
        return self(x)  # type: ignore[no-any-return]

    @contextmanager
    def evaluating(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Evaluation mode and no gradients within this context; every module's mode comes back afterwards.

        Yields:
            This network's forward. On a GPU it is a CUDA graph from the third call of a shape on (`nn.capture.Captured`),
            unless code that is not tritonnet's runs in it: modules of other kinds, hooks.
        """
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        if self not in _forwards:
            network: Any = weakref.proxy(self)  # or neither would be freed
            _forwards[self] = Captured(lambda x: network(Tensor(x)), network)
        forward = _forwards[self]
        try:
            with no_grad():
                yield (lambda x: forward(x.data)) if _ours(self) else self
        finally:
            for module, training in modes:
                module.training = training

    # --- for the user ---

    def summary(self, input_size: tuple[int, int, int] | None = None) -> None:
        """Print one row a layer (name, what it does, output shape, parameters) and the total.

        Args:
            input_size: (C, H, W) of an image; by default 32 x 32 for the poster's network and 256 x 256 for others.
        """
        side = 32 if self.config["model"] == "poster" else 256
        print(table(self, input_size or (self.in_channels, side, side)))

    def probabilities(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> each pixel's class probabilities (N, num_classes, H, W); of the one class by a sigmoid."""
        return F.softmax(self(x), dim=1) if self.num_classes > 1 else F.sigmoid(self(x))

    def predict(self, images: Any, batch_size: int = 8) -> Any:
        """Class masks of images, at the size they have, which should be the size trained at.

        For others there is `tritonnet.train.Trained.predict`, which resizes them as training did.

        On a GPU recorded as `evaluating` says, and kept for the next call.

        Args:
            images: numpy array, uint8 (N, H, W, C) with values 0..255, or float32 (N, C, H, W) already normalised.
            batch_size: images computed at a time, at least 1.

        Returns:
            numpy array, uint8 (N, H, W), of class numbers; with one class, 1 where its probability is above 0.5.

        Raises:
            Refused: another dtype or shape.
        """
        masks = torch.empty((len(images), *_size(images)), dtype=torch.uint8, device="cpu")
        with self.evaluating() as forward:
            for i in range(0, len(images), batch_size):
                logits = forward(self._input(images[i : i + batch_size]))
                if self.num_classes == 1:  # the class against a logit of 0
                    logits = F.cat((Tensor(runtime.zeros(tuple(logits.data.shape), logits.dtype)), logits), dim=1)
                masks[i : i + batch_size].copy_(argmax_fwd(logits.data, dtype=torch.uint8))
        return masks.numpy()

    def fit(
        self, images: Any, masks: Any = None, *, epochs: int = 10, batch_size: int = 8, optimizer: Any = None,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None, validation: tuple[Any, Any] | None = None,
        seed: int = 0, verbose: bool = True,
    ) -> dict[str, list[float]]:  # fmt: skip
        """Train on arrays in memory.

        On a GPU a step is one CUDA graph from its third run of a batch shape on, for as long as this call takes; not with a
        loss, an optimizer or modules that are not tritonnet's own, which may read values on the way.

        Args:
            images: as for `predict`; or, without `masks`, a `tritonnet.data.Loader`.
            masks: numpy array (N, H, W) of class numbers, any integer dtype; 255 is ignored.
            epochs: passes over the images, at least 1.
            batch_size: images a step, at least 1; the last step of an epoch may have fewer.
            optimizer: of this model's parameters; Adam with lr=1e-3 by default.
            loss: from logits and masks to one number; cross-entropy by default, binary cross-entropy with one class.
            validation: (images, masks) whose loss is computed after each epoch.
            seed: of the order of the images, which is a function of (seed, epoch).
            verbose: print a line an epoch.

        Returns:
            One number an epoch: "loss" (mean over the images), "seconds", and "val_loss" with `validation`.

        Raises:
            Refused: images and masks that do not belong together.
        """
        optimizer = optimizer or Adam(self.parameters(), lr=1e-3)
        history: dict[str, list[float]] = {"loss": [], "val_loss": [], "seconds": []}
        if not validation:
            del history["val_loss"]

        def forget() -> None:
            optimizer.zero_grad()
            self.zero_grad()  # of those that the optimizer does not have, too: a graph must not add to what is freed

        def step(x: torch.Tensor, target: torch.Tensor) -> Tensor:
            value = self._loss(self(Tensor(x)), Tensor(target), loss)
            value.backward()
            optimizer.step()
            forget()
            return value.detach()

        forget()
        with Captured(step, self, lambda: optimizer.publish(), alone=True) as captured:
            update = captured if _ours(self, optimizer, loss) else step
            for epoch in range(epochs):
                start = time.perf_counter()
                self.train()
                parts = _batches(images, masks, batch_size, f"{seed}/{epoch}")
                losses = [(update(self._input(x).data, _target(t).data), len(x)) for x, t in parts]
                history["loss"].append(_mean(losses))
                if validation:
                    with self.evaluating() as forward:
                        parts = _batches(*validation, batch_size, None)
                        losses = [(self._loss(forward(self._input(x)), _target(t), loss), len(x)) for x, t in parts]
                        history["val_loss"].append(_mean(losses))
                history["seconds"].append(time.perf_counter() - start)
                if verbose:
                    print(f"epoch {epoch + 1}/{epochs}  " + "  ".join(f"{k} {v[-1]:.4g}" for k, v in history.items()))
        return history

    def _input(self, images: Any) -> Tensor:
        name, kind = type(self).__name__, str(images.dtype)
        if kind == "float32":
            return from_numpy(images.copy())
        if kind != "uint8":
            refuse(name, f"images must be uint8 (N, H, W, C) or float32 (N, C, H, W), got {kind}")
        if images.ndim != 4 or images.shape[3] != self.in_channels:
            refuse(name, f"uint8 images must be (N, H, W, {self.in_channels}), got shape {images.shape}")
        # through rank 2, since a rank-4 Tensor would be read as (N, C, H, W)
        host = from_numpy(images.reshape(len(images), -1).copy())
        mean, rstd = (tensor([*values]).data for values in (self.mean, (1 / s for s in self.std)))
        return Tensor(image_input(host.data.view(*images.shape), mean, rstd, 1 / 255, storage_dtype()))

    def _loss(self, logits: Tensor, target: Tensor, loss: Callable[[Tensor, Tensor], Tensor] | None) -> Tensor:
        if loss is not None:
            return loss(logits, target)
        default = F.cross_entropy if self.num_classes > 1 else F.binary_cross_entropy_with_logits
        return default(logits, target, ignore_index=IGNORE)


def _ours(*things: Any) -> bool:
    """Whether they run code of tritonnet's alone, which reads no value on the host; modules, functions, objects or None."""
    for part in (p for t in things if t is not None for p in (t.modules() if isinstance(t, Module) else [t])):
        home = part.__globals__["__name__"] if isinstance(part, FunctionType) else type(part).__module__
        if not home.startswith("tritonnet.") or (isinstance(part, Module) and (part._hooks or "forward" in vars(part))):
            return False
    return True


def _target(masks: Any) -> Tensor:
    return from_numpy(masks.astype("int64"))


def _size(images: Any) -> tuple[int, int]:
    if getattr(images, "ndim", 0) != 4:
        got = f"shape {images.shape}" if hasattr(images, "shape") else type(images).__name__
        refuse("predict", f"images must have 4 dimensions, got {got}; numpy.stack makes an array of a list")
    h, w = images.shape[1:3] if str(images.dtype) == "uint8" else images.shape[2:4]
    return h, w


def _mean(losses: list[tuple[Tensor, int]]) -> float:
    """The mean over images; reading the values is what waits for the device."""
    return sum(float(value) * count for value, count in losses) / max(1, sum(count for _, count in losses))


def _batches(images: Any, masks: Any, batch_size: int, order: str | None) -> Iterable[tuple[Any, Any]]:
    """Pairs of arrays; shuffled by the seed `order`, or as they come with None. `images` may be a Loader."""
    if masks is None:
        epoch = int(order.split("/")[1]) if order else 0
        yield from ((batch.images, batch.masks) for batch in images.epoch(epoch))
        return
    if len(images) != len(masks) or masks.ndim != 3 or tuple(masks.shape[1:]) != tuple(_size(images)):
        refuse("fit", f"masks must be (N, H, W) of the images' N, H, W, got {masks.shape} for images {images.shape}")
    indices = list(range(len(images)))
    if order is not None:
        random.Random(order).shuffle(indices)
    for i in range(0, len(indices), batch_size):
        yield images[indices[i : i + batch_size]], masks[indices[i : i + batch_size]]
