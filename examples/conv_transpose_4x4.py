"""A transposed convolution {1,1,4,4} -> {1,1,8,8}, printed: 3x3 window, stride 2, padding 1, output padding 1.

Each input pixel adds its multiple of the window to the output, two pixels further on for each step in the input.
"""

import numpy as np

import tritonnet as tn

x = tn.tensor([[[[float(4 * row + column + 1) for column in range(4)] for row in range(4)]]])
weight = tn.tensor([[[[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]]])
y = tn.nn.functional.conv_transpose2d(x, weight, stride=2, padding=1, output_padding=1)

for name, tensor in (("x", x), ("weight", weight), ("y", y)):
    print(name, tensor.shape)
    print(np.array2string(tensor.numpy()[0, 0], precision=0, suppress_small=True))
