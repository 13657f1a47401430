"""Files: arrays in HDF5 (`hdf5`), model files, PyTorch's `.pth` (read), safetensors; `inspect` lists them. Numpy in and out."""

from tritonnet.io import hdf5
from tritonnet.io.atomic import FileError, ModelFileError, replacing
from tritonnet.io.inspection import inspect
from tritonnet.io.model_file import FORMAT_VERSION, ModelFile, load_model, save_model
from tritonnet.io.pth import load_pth
from tritonnet.io.safetensors import load_safetensors, save_safetensors

__all__ = [
    "FORMAT_VERSION", "FileError", "ModelFile", "ModelFileError", "hdf5", "inspect", "load_model", "load_pth",
    "load_safetensors", "replacing", "save_model", "save_safetensors",
]  # fmt: skip
