"""Datasets and loaders: files in, numpy batches out. Knows no model and no Tensor."""

from tritonnet.data.cells import Cells
from tritonnet.data.dataset import CACHE_BYTES, Dataset, channel_statistics, class_weights, split
from tritonnet.data.folder import FolderDataset, open_dataset
from tritonnet.data.image import DataError, list_images, load_image, read_mask, resize_mask
from tritonnet.data.loader import Batch, Loader
from tritonnet.data.mapping import IGNORE, MaskMapping, default_palette

__all__ = [
    "CACHE_BYTES", "IGNORE", "Batch", "Cells", "DataError", "Dataset", "FolderDataset", "Loader", "MaskMapping",
    "channel_statistics", "class_weights", "default_palette", "list_images", "load_image", "open_dataset",
    "read_mask", "resize_mask", "split",
]  # fmt: skip
