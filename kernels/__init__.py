"""Hand-written Triton kernels and their launchers: buffers in, buffers out; no Tensor, no gradient.

Every module is named after its op and opens with the op's formula. A launcher is named `<op>_<pass>`.
"""

if __name__ != "tritonnet.kernels":
    raise ImportError(
        "[kernels] this folder is imported as tritonnet.kernels, not as kernels: write `import tritonnet.kernels`"
    )
