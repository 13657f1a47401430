"""fit and predict on small arrays."""

import numpy as np
import pytest
import torch
from graphs import recordings  # noqa: F401
from helpers import to64

import tritonnet as tn
from tritonnet import models
from tritonnet.nn import capture
from tritonnet.nn import functional as F
from tritonnet.ops.random import get_state


def squares(count: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Bright squares on a dark noisy ground, and where they are."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 60, (count, size, size, 3), dtype=np.uint8)
    masks = np.zeros((count, size, size), np.uint8)
    for image, mask in zip(images, masks, strict=True):
        y, x = generator.integers(0, size // 2, 2)
        image[y : y + size // 2, x : x + size // 2] += 150
        mask[y : y + size // 2, x : x + size // 2] = 1
    return images, masks


@pytest.mark.parametrize("classes", [1, 2])
def test_fit_learns_and_predict_shows_it(classes, capsys) -> None:
    tn.manual_seed(0)
    images, masks = squares(8, 8)
    model = models.UNet(3, classes, base_channels=4, depth=1)
    for module in model.modules():
        if isinstance(module, tn.nn.BatchNorm2d):
            module.momentum = 0.5  # so that five steps are enough for the running statistics
    optimizer = tn.optim.Adam(model.parameters(), lr=3e-2)
    history = model.fit(images, masks, epochs=5, batch_size=8, optimizer=optimizer)
    assert set(history) == {"loss", "seconds"}
    assert all(len(values) == 5 for values in history.values())
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert capsys.readouterr().out.splitlines()[0].startswith("epoch 1/5  loss ")
    assert model.training
    predicted = model.predict(images, batch_size=5)
    assert predicted.shape == masks.shape
    assert predicted.dtype == np.uint8
    assert (predicted == masks).mean() > 0.85
    assert model.training, "predict leaves the mode as it was"


def test_validation_loss_is_that_of_evaluation() -> None:
    images, masks = squares(3, 4)
    model = models.UNet(3, 2, base_channels=2, depth=1)
    history = model.fit(images[:2], masks[:2], epochs=1, verbose=False, validation=(images, masks), batch_size=2)
    with model.evaluating():
        logits, target = model(model._input(images)), tn.from_numpy(masks.astype(np.int64))
        expected = float(tn.nn.functional.cross_entropy(logits, target))
    assert history["val_loss"] == [pytest.approx(expected, rel=1e-6)]


def test_fit_twice_with_one_seed_is_the_same() -> None:
    images, masks = squares(2, 4)
    runs = []
    for seed in (1, 1, 2):
        tn.manual_seed(0)
        model = models.UNet(3, 2, base_channels=2, depth=1)
        runs.append(model.fit(images, masks, epochs=2, batch_size=1, seed=seed, verbose=False)["loss"])
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize(
    ("optimizer", "loss"),
    [
        pytest.param("SGD", tn.nn.DiceLoss(ignore_index=255), id="sgd-dice"),
        pytest.param("Adam", None, id="adam-default", marks=pytest.mark.gpu),
        pytest.param("RMSprop", F.focal_loss, id="rmsprop-focal", marks=pytest.mark.gpu),
    ],
)
def test_recorded_is_eager(optimizer, loss, recordings, monkeypatch) -> None:  # noqa: F811
    """To the bit, with a smaller last batch, dropout, and a network of which only a part is trained; twice, as a user may."""
    images, masks = squares(3, 4)
    ends = []
    for eager in (10**9, 2):
        monkeypatch.setattr(capture, "EAGER", eager)
        tn.manual_seed(0)
        model = models.UNet(3, 2, base_channels=2, depth=1, dropout=0.2)
        trained = [*model.up1.parameters(), *model.outc.parameters()]
        stepper = getattr(tn.optim, optimizer)(trained, lr=0.1)
        with tn.precision("bf16"):
            how = {"batch_size": 2, "optimizer": stepper, "loss": loss, "verbose": False}
            first = model.fit(images, masks, epochs=3, validation=(images, masks), **how)
            stepper.param_groups[0]["lr"] = 0.01
            second = model.fit(images, masks, epochs=3, **how)
            found = model.predict(images, batch_size=2)
        numbers = [*first["loss"], *first["val_loss"], *second["loss"]]
        ends.append((numbers, get_state(), found, [t.data for t in model.state_dict().values()]))
        assert all(p.grad is None for p in model.parameters())
    (numbers, state, found, weights), (*others, tensors) = ends
    assert [numbers, state] == others[:2]
    assert np.array_equal(found, others[2])
    assert all(torch.equal(a, b) for a, b in zip(weights, tensors, strict=True))
    # of each call the step of two images, in its third epoch, after which one more eager step is due; both forwards
    assert len(recordings) == 2 + 2


def test_code_of_the_users_is_not_recorded(recordings) -> None:  # noqa: F811
    """It may read values."""
    images, masks = squares(1, 4)

    class Mine(tn.optim.SGD):
        pass

    def wrapped(logits, target):
        return F.cross_entropy(logits, target)

    wrapped.__module__ = F.cross_entropy.__module__  # as functools.wraps leaves it
    model = models.UNet(3, 2, base_channels=1, depth=1)
    for how in ({"loss": wrapped}, {"loss": tn.nn.CrossEntropyLoss().forward}, {"optimizer": Mine(model.parameters())}):
        model.fit(images, masks, epochs=4, verbose=False, **how)
    seen = []
    remove = model.inc.register_forward_hook(lambda *_: seen.append(1))
    model.fit(images, masks, epochs=4, verbose=False, validation=(images, masks))
    assert len(seen) == 8
    assert not recordings
    remove()
    model.fit(images, masks, epochs=3, verbose=False)
    assert len(recordings) == 1


def test_ignored_pixels_do_not_count() -> None:
    images, masks = squares(2, 4)
    losses = []
    for value in (255, 1):
        tn.manual_seed(0)
        marked = masks.copy()
        marked[:, 0] = value
        losses.append(models.UNet(3, 2, 2, 1).fit(images, marked, epochs=1, verbose=False)["loss"])
    assert losses[0] != losses[1]
    assert np.isfinite(losses).all()


def test_own_loss_and_epochs_of_a_loader() -> None:
    images, masks = squares(4, 4)

    class Loader:
        def epoch(self, number):
            from types import SimpleNamespace

            yield SimpleNamespace(images=images[number : number + 2], masks=masks[number : number + 2])

    seen = []

    def loss(logits, target):
        seen.append(target.shape)
        return tn.nn.functional.cross_entropy(logits, target)

    history = models.UNet(3, 2, 2, 1).fit(Loader(), epochs=2, loss=loss, verbose=False)
    assert seen == [(2, 4, 4)] * 2
    assert len(history["loss"]) == 2


def test_normalisation_and_float_images_agree() -> None:
    images, _ = squares(2, 6)
    model = models.UNet(3, 3, base_channels=2, depth=1)
    model.set_normalization((0.2, 0.3, 0.4), (0.5, 0.6, 0.7))
    by_hand = ((images / 255 - [0.2, 0.3, 0.4]) / [0.5, 0.6, 0.7]).transpose(0, 3, 1, 2).astype(np.float32)
    assert np.allclose(model._input(images).numpy(), by_hand, rtol=1e-5, atol=1e-6)
    assert np.array_equal(model._input(by_hand).numpy(), by_hand)
    assert np.array_equal(model.predict(images[:0]), np.zeros((0, 6, 6), np.uint8))


@pytest.mark.parametrize("classes", [1, 3])
def test_probabilities_and_predictions_agree(classes) -> None:
    model = models.UNet(3, classes, base_channels=2, depth=1).eval()
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 6)).astype(np.float32)
    probabilities = to64(model.probabilities(tn.from_numpy(x)).torch())
    if classes > 1:
        assert torch.allclose(probabilities.sum(1), torch.ones(2, 5, 6, dtype=torch.float64), atol=1e-6)
    expected = probabilities.argmax(1) if classes > 1 else (probabilities[:, 0] > 0.5).long()
    assert np.array_equal(model.predict(x), expected.numpy())


REFUSED = {
    "dtype": (lambda m, x, t: m.predict(x.astype(np.int64)), "images must be uint8 .* or float32 .*, got int64"),
    "rank": (lambda m, x, t: m.predict(x[0]), r"images must have 4 dimensions, got shape \(4, 4, 3\)"),
    "list": (lambda m, x, t: m.predict([*x]), "images must have 4 dimensions, got list; numpy.stack makes an array"),
    "channels": (lambda m, x, t: m.predict(x[..., :2]), r"uint8 images must be \(N, H, W, 3\), got shape"),
    "masks": (lambda m, x, t: m.fit(x, t[:1]), "masks must be .* of the images' N, H, W, got"),
    "std": (lambda m, x, t: m.set_normalization((0, 0, 0), (1, 0, 1)), "std above 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name) -> None:
    call, message = REFUSED[name]
    images, masks = squares(2, 4)
    with pytest.raises(tn.Refused, match=message):
        call(models.UNet(3, 1, 2, 1), images, masks)


def test_a_label_outside_the_classes_is_found() -> None:
    images, masks = squares(2, 4)
    with pytest.raises(tn.Fault, match="every target must be a class index"):
        models.UNet(3, 2, 2, 1).fit(images, masks * 7, epochs=1, verbose=False)
