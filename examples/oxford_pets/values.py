"""What the report takes from the rows: which belong together, and the values of one."""

from collections.abc import Callable, Sequence

from oxford_pets.jobs import Row

Block = tuple  # ("heading" | "text" | "code", text), ("table", head, lines) or ("picture", file, title, bytes)


def chosen(rows: Sequence[Row], **fields: object) -> dict[int, Row]:
    """By seed, the rows whose job has these fields; of several the last."""
    return {row["job"].seed: row for row in rows if all(getattr(row["job"], k) == v for k, v in fields.items())}


def main(rows: Sequence[Row], framework: str, optimizer: str) -> dict[int, Row]:
    return chosen(rows, group="main", framework=framework, optimizer=optimizer)


def paired(one: dict[int, Row], other: dict[int, Row], value: Callable[[Row], float | None]) -> list[float]:
    """The difference of a value between two rows of each seed that both have."""
    pairs = [(value(one[seed]), value(other[seed])) for seed in sorted(one.keys() & other.keys())]
    return [a - b for a, b in pairs if a is not None and b is not None]


def known(of: Sequence[Row], value: Callable[[Row], float | None]) -> list[float]:
    """The values of the rows that have one."""
    return [found for found in map(value, of) if found is not None]


def iou(epochs: int, which: str = "best") -> Callable[[Row], float | None]:
    """The test IoU after so many epochs: of the best epoch on the validation images, or of the "last"."""
    return lambda row: row["scores"][str(epochs)][which][0] if str(epochs) in row["scores"] else None


def final(which: str, i: int = 0) -> Callable[[Row], float]:
    """A test score after all epochs: of the "last" weights, of these with "flips", or of the "best"; IoU, Dice, accuracy."""
    return lambda row: row["scores"][str(max(row["job"].epochs))][which][i]


def epochs_to_95(row: Row) -> float:
    """The first epoch with 95 % of the final validation IoU, which is the mean over the last tenth of the epochs."""
    curve = row["val_iou"]
    tail = curve[-max(len(curve) // 10, 1) :]
    wanted = 0.95 * sum(tail) / len(tail)
    return float(next(i for i, value in enumerate(curve, 1) if value >= wanted))


def seconds(row: Row) -> float | None:
    """Of a training epoch, the median: without compilation, validation and test. None where runs shared a GPU."""
    return None if row.get("shared_gpu") else sorted(row["epoch_seconds"])[len(row["epoch_seconds"]) // 2]


def peak(row: Row) -> float | None:
    """GiB of the device's memory in the first epoch."""
    return row["peak_gib"]


def budgets(rows: Sequence[Row]) -> list[int]:
    return sorted({int(epochs) for row in rows if row["job"].group == "main" for epochs in row["scores"]})


def commands(rows: Sequence[Row], **options: object) -> list[Block]:
    """What makes these rows, with these options: a command for each set of seeds."""
    seeds: dict[str, list[int]] = {}
    for row in rows:
        seeds.setdefault(row["job"].group, []).append(row["job"].seed)
    groups: dict[tuple[int, ...], list[str]] = {}
    for group, found in seeds.items():
        groups.setdefault(tuple(sorted({*found})), []).append(group)
    blocks: list[Block] = []
    for own, names in groups.items():
        given = {"only": ",".join(names), "seeds": ranges(own)} | options
        words = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in given.items())
        blocks.append(("code", f"python examples/oxford_pets_experiment.py --data DIR --out REPORT_DIR {words}"))
    return blocks


def ranges(numbers: Sequence[int]) -> str:
    """`0-4,7` of 0, 1, 2, 3, 4 and 7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(f"{part[0]}-{part[-1]}" if part[1:] else str(part[0]) for part in parts)
