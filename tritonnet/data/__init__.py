"""Datasets and loaders: files in, numpy batches out. Knows no model and no Tensor."""

from tritonnet.data.augment import Augmentation
from tritonnet.data.cells import Cells
from tritonnet.data.check import check
from tritonnet.data.dataset import CACHE_BYTES, Dataset, channel_statistics, class_weights, split
from tritonnet.data.folder import open_dataset
from tritonnet.data.hdf5 import pack
from tritonnet.data.image import DataError, list_images, load_image, read_mask, resize_mask
from tritonnet.data.labelled import Labelled, open_labelled
from tritonnet.data.loader import Batch, Loader
from tritonnet.data.mapping import IGNORE, MaskMapping, default_palette

__all__ = [
    "CACHE_BYTES", "IGNORE", "Augmentation", "Batch", "Cells", "DataError", "Dataset", "Labelled",
    "Loader", "MaskMapping", "channel_statistics", "check", "class_weights", "default_palette", "list_images", "load_image",
    "open_dataset", "open_labelled", "pack", "read_mask", "resize_mask", "split",
]  # fmt: skip
