"""The gradient's standard deviation by layer, for He's initialisation and for normal weights of 0.01.

    python examples/initialisation.py [--widths 64,64,128,...] [--size 32]

The stack is VGG B's: ten 3x3 convolutions, each with a ReLU. He et al. 2015 (section 2.2) derive that 0.01 shrinks the
gradient on its way from conv10 through conv2 by 5.9 * 4.2^2 * 2.9^2 * 2.1^4 = 1.7e4 more than sqrt(2 / (3 * 3 * filters)).
"""

import argparse
import math

import tritonnet as tn
from tritonnet.nn import functional as F


def gradients(widths: list[int], stds: list[float], size: int) -> list[float]:
    """The standard deviation of the gradient at each layer's input, the last layer's output having one of 1.

    Both initialisations draw the same numbers and scale them, so their ReLUs are open at the same pixels.
    """
    tn.manual_seed(0)
    x, steps = tn.randn(1, 3, size, size), []
    for channels, filters, std in zip([3, *widths], widths, stds, strict=False):
        conv = tn.nn.Conv2d(channels, filters, 3, padding=1, bias=False)
        tn.nn.init.normal_(conv.weight, std=std)
        x = x.detach().requires_grad_()  # each layer is differentiated by itself, so that its gradient can be seen
        steps.append((x, F.relu(conv(x))))
        x = steps[-1][1]
    gradient, found = tn.randn(*x.shape), []
    for x, y in reversed(steps):
        y.backward(gradient)
        gradient = x.grad
        found.append(float(gradient.numpy().std()))
    return found[::-1]


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--widths", default="64,64,128,128,256,256,512,512,512,512", help="filters of each layer")
parser.add_argument("--size", type=int, default=32, help="of the random image, pixels")
options = parser.parse_args()

widths = [int(width) for width in options.widths.split(",")]
he = [math.sqrt(2 / (3 * 3 * filters)) for filters in widths]
by_he, by_small = (gradients(widths, stds, options.size) for stds in (he, [0.01] * len(widths)))
print("layer   filters  He's std  gradient, He  gradient, 0.01   He / 0.01")
for i in reversed(range(len(widths))):
    row = f"{widths[i]:7}  {he[i]:8.4f}  {by_he[i]:12.3g}  {by_small[i]:14.3g}  {by_he[i] / by_small[i]:10.3g}"
    print(f"conv{i + 1:<3} {row}")
derived = math.prod(std / 0.01 for std in he[1:])
measured = by_he[1] / by_small[1]
print(f"from conv{len(widths)} through conv2 the gradient shrinks {measured:.3g} times as much with 0.01 as with He's;")
print(f"the product of He's deviations over 0.01 is {derived:.3g}")
