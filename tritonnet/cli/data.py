"""`tritonnet data`: look at a dataset before training on it."""

import os
from pathlib import Path
from typing import Annotated

import typer

from tritonnet.data import Augmentation, DataError, Dataset, open_dataset
from tritonnet.data import check as check_data
from tritonnet.data import pack as pack_data
from tritonnet.data.image import PICTURES
from tritonnet.io import replacing
from tritonnet.train.batches import augmented_sample
from tritonnet.train.config import HELP, LARGEST
from tritonnet.train.pictures import contact_sheet

__all__ = ["app"]

app = typer.Typer(
    rich_markup_mode="markdown",
    help="Look at a dataset before training on it.\n\nFirst `tritonnet data check DIR`, then `tritonnet data preview DIR`: "
    "wrong mask values are the first cause of predictions that are all black.",
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="folder or HDF5 file as for train", show_default=False)]
Size = Annotated[int, typer.Option(help=HELP["size"], min=1, max=LARGEST)]
Val = Annotated[str, typer.Option(help=HELP["val"])]


def _open(data: Path, size: int, val: str) -> Dataset:
    """The dataset without a cache; prints its notes."""
    dataset = open_dataset(data, size, val=None if val == "auto" else val, cache_bytes=0)
    print("\n".join(dataset.notes))
    return dataset


@app.command()
def check(data: Folder, size: Size = 256, val: Val = "auto") -> None:
    """Read every file of a dataset and say what is there, what is wrong, and what the masks are taken for.

    Prints pairs, sizes, kinds of files, mask values, equal images (also between training and validation), a line for
    each damaged or unpaired file, and ends with one sentence on the classes. Exit code 2 if training could not start.

    Examples:
    - `tritonnet data check mydata`
    - `tritonnet data check mydata --size 512 --val val.txt`
    """
    lines, faults = check_data(data, size, None if val == "auto" else val)
    print("\n".join([*lines, *(f"FAULT: {fault}" for fault in faults)]))
    if faults:
        raise DataError(f"{data}: training could not start; mend what is marked FAULT above")


@app.command()
def pack(
    data: Folder,
    out: Annotated[Path, typer.Argument(metavar="OUT.h5", help="file to write", show_default=False)],
    size: Size = 256,
    val: Val = "auto",
) -> None:
    """Write a dataset to one HDF5 file, for `train --data OUT.h5`: an image a chunk, read back one by one.

    Images of all sizes are resized to size x size, as training would see them; masks become class numbers, and what
    they were made of is kept beside them, with the names and the division into training and validation.

    Example: `tritonnet data pack mydata mydata.h5 --size 256`
    """
    if out.exists():
        raise DataError(f"{out}: is there already; choose another name or remove it")
    dataset = _open(data, size, val)
    try:
        with replacing(out) as temporary:
            pack_data(dataset, temporary)
    except (OSError, RuntimeError) as error:  # HDF5's own text is long
        raise DataError(f"{out}: cannot be written ({os.strerror(getattr(error, 'errno', 0) or 5)})") from None
    print(f"{len(dataset)} images of {size}x{size} in {out}, {out.stat().st_size / 2**20:.1f} MiB")


@app.command()
def preview(
    data: Folder,
    out: Annotated[Path, typer.Option(help="picture to write")] = Path("preview.png"),
    count: Annotated[int, typer.Option(help="how many images, evenly spread over the dataset", min=1)] = 24,
    size: Size = 256,
    val: Val = "auto",
    augment: Annotated[str, typer.Option(help=HELP["augment"])] = "",
) -> None:
    """Draw a contact sheet: images as they are trained on, with the outlines of their masks; ignored pixels are grey.

    Examples:
    - `tritonnet data preview mydata --out sheet.png`
    - `tritonnet data preview mydata --augment "rotate, elastic=0.1"` shows what that does to them
    """
    if out.suffix.lower() not in PICTURES:
        raise DataError(f"{out}: must end in one of {', '.join(PICTURES)}")
    dataset = _open(data, size, val)
    part = {index: name for name, indices in dataset.splits.items() for index in indices}
    count = min(count, len(dataset))
    chosen = [i * len(dataset) // count for i in range(count)]
    augmentation = Augmentation.parse(augment)
    tiles = [
        (f"{dataset.names[i]} ({part.get(i, 'unused')})", *augmented_sample(dataset, i, augmentation)) for i in chosen
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(tiles, dataset.palette).save(out)
    print(f"{count} of {len(dataset)} images in {out}")
