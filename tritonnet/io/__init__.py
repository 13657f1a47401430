"""Files of weights: the native HDF5 model file, PyTorch's `.pth` (read), safetensors. Numpy arrays in and out."""

from tritonnet.io.atomic import ModelFileError, write_atomically
from tritonnet.io.model_file import FORMAT_VERSION, ModelFile, load_model, save_model
from tritonnet.io.pth import load_pth
from tritonnet.io.safetensors import load_safetensors, save_safetensors

__all__ = [
    "FORMAT_VERSION", "ModelFile", "ModelFileError", "load_model", "load_pth", "load_safetensors", "save_model",
    "save_safetensors", "write_atomically",
]  # fmt: skip
