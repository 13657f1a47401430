"""Tell digits apart, by a multilayer perceptron and by a small convolutional network.

    python examples/mnist.py --data DIR [--networks mlp,cnn] [--epochs 8] [--limit IMAGES]

DIR holds MNIST's four files (train-images-idx3-ubyte.gz, ...); without it digits are made: drawn with a font, with noise.
On MNIST the perceptron should reach 98 % of the test images, the convolutions 99 %.
"""

import argparse
import time

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import tritonnet as tn
from tritonnet import nn
from tritonnet.data import Labelled, open_labelled
from tritonnet.kernels import fault
from tritonnet.nn.capture import Captured
from tritonnet.train import Config
from tritonnet.train.batches import Normalizer, to_device

NETWORKS = {
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    ),
    "cnn": lambda: nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10),
    ),
}  # fmt: skip


def made_digits(count: int, seed: int) -> Labelled:
    """Digits of Pillow's font at random places, sizes, angles and strengths, with noise; nobody wrote them."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, count)
    images = np.empty((count, 28, 28), np.uint8)
    for image, label in zip(images, labels, strict=True):
        picture = Image.new("L", (28, 28))
        place, font = random.integers(5, 11, 2), ImageFont.load_default(float(random.integers(16, 23)))
        ImageDraw.Draw(picture).text(tuple(place - (0, 4)), str(label), fill=int(random.integers(150, 256)), font=font)
        turned = np.asarray(picture.rotate(random.uniform(-15, 15), Image.Resampling.BILINEAR), np.float64)
        image[:] = np.clip(turned + random.normal(0, 20, (28, 28)), 0, 255)
    return Labelled(images, labels, tuple("0123456789"))


def train(network: nn.Module, data: Labelled, normalizer: Normalizer, epochs: int, batch_size: int) -> None:
    """Minimise the cross-entropy by Adam, whose learning rate falls from 1e-3 along a cosine."""
    starts = range(0, len(data.images), batch_size)
    optimizer = tn.optim.Adam(network.parameters(), lr=1e-3)
    schedule = tn.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(starts))
    loss_function = nn.CrossEntropyLoss()

    def update(images, labels):
        loss = loss_function(network(normalizer(images)), tn.Tensor(labels))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    step = Captured(update, network, optimizer.publish, alone=True)  # on a GPU, one CUDA graph
    random, begin = np.random.default_rng(0), time.perf_counter()
    for epoch in range(epochs):
        order, total = random.permutation(len(data.images)), tn.tensor(0.0)
        for start in starts:
            chosen = order[start : start + batch_size]
            total = total + step(to_device(data.images[chosen]), to_device(data.labels[chosen])) * len(chosen)
            schedule.step()
        loss = total.item() / len(order)  # waits for the device
        fault.check()
        print(f"  epoch {epoch + 1}/{epochs}  loss {loss:.4f}  {time.perf_counter() - begin:.1f} s", flush=True)


def accuracy(network: nn.Module, data: Labelled, normalizer: Normalizer) -> float:
    """The share of images whose largest logit is their digit's."""
    right = 0
    network.eval()
    with tn.no_grad():
        for start in range(0, len(data.images), 1000):
            part = slice(start, start + 1000)
            found = network(normalizer(to_device(data.images[part]))).argmax(1).numpy()
            right += int((found == data.labels[part]).sum())
    return right / len(data.images)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", help="folder with MNIST's files (none: made digits)")
parser.add_argument("--networks", default="mlp,cnn", help=f"of {', '.join(NETWORKS)}")
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--batch-size", type=int, default=128)
parser.add_argument("--limit", type=int, help="train on, and test with, at most so many images")
parser.add_argument("--precision", default=Config.for_machine().precision, help="fp32, tf32, bf16 or fp16")
options = parser.parse_args()

tn.set_precision(options.precision)
if options.data:
    splits = [open_labelled(options.data, split) for split in ("train", "test")]
else:
    splits = [made_digits(count, seed) for seed, count in enumerate((options.limit or 6000, options.limit or 1000))]
training, test = (
    Labelled(np.array(s.images[: options.limit]).reshape(-1, 28, 28, 1), s.labels[: options.limit], s.class_names)
    for s in splits
)  # images (N, 28, 28, 1), channels last
kind = "MNIST" if options.data else "made digits, not MNIST"
print(f"{kind}: {len(training.images)} images to train on, {len(test.images)} to test with; {options.precision}")
mean, std = float(training.images.mean() / 255), float(training.images.std() / 255)
for name in options.networks.split(","):
    tn.manual_seed(0)
    network = NETWORKS[name]()
    print(f"{name}: {sum(p.numel() for p in network.parameters()):,} parameters")
    normalizer = Normalizer([mean], [std], 1 / 255)
    train(network, training, normalizer, options.epochs, options.batch_size)
    print(f"{name}: {accuracy(network, test, normalizer):.2%} of the test images of {kind}", flush=True)
