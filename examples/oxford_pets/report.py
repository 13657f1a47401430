"""The report of the rows: tables and sentences by the numbers, as Markdown and as one self-contained HTML page."""

import base64
import html
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from oxford_pets.figures import NAMES, curves, pets
from oxford_pets.intervals import interval, verdict, written
from oxford_pets.jobs import LENGTHS, Job, Row

Block = tuple  # ("heading" | "text", text), ("table", head, lines) or ("picture", name, title, bytes)

PAPER = {  # IoU / Dice / pixel accuracy: PyTorch with Adam, theirs with Adam, theirs with SGD
    30: (".270 / .234 / .189", ".431 / .501 / .291", ".395 / .459 / .273"),
    60: (".713 / .260 / .406", ".727 / .747 / .419", ".698 / .733 / .408"),
    90: (".782 / .256 / .433", ".657 / .704 / .393", ".677 / .717 / .401"),
}
STYLE = "body{font:15px sans-serif;max-width:72em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
STYLE += "td,th{border:1px solid #ccc;padding:.25em .6em;text-align:left}img{max-width:100%}"


def write(folder: Path, rows: Sequence[Row]) -> list[Path]:
    """Write report.md with its pictures, and report.html; the files' names."""
    blocks, others = head(rows), [row for row in rows if row["job"].group not in LENGTHS]
    for part in (protocol, table, peer, claims, variants, scale, pictures) if others else ():
        blocks += part(others)
    blocks += recipes([row for row in rows if row["job"].group in LENGTHS])
    folder.mkdir(parents=True, exist_ok=True)
    for block in blocks:
        if block[0] == "picture":
            (folder / block[1]).write_bytes(block[3])
    text = "\n\n".join(map(markdown, blocks)).removeprefix("#") + "\n"  # the first heading is the title
    (folder / "report.md").write_text(text, encoding="utf-8")
    page = f"<!doctype html><meta charset=utf-8><title>{html.escape(blocks[0][1])}</title><style>{STYLE}</style>"
    (folder / "report.html").write_text(page + "\n".join(map(as_html, blocks)) + "\n", encoding="utf-8")
    return [folder / "report.md", folder / "report.html"]


def markdown(block: Block) -> str:
    match block:
        case ("heading", text):
            return f"## {text}"
        case ("table", head, lines):
            return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["--"] * len(head), *lines))
        case ("picture", name, title, _):
            return f"![{title}]({name})\n\n{title}"
    return block[1]


def as_html(block: Block) -> str:
    match block:
        case ("heading", text):
            return f"<h2>{html.escape(text)}</h2>"
        case ("table", head, lines):
            rows = [
                "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line)
                for tag, line in (("th", head), *(("td", line) for line in lines))
            ]
            return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"
        case ("picture", _, title, content):
            data = base64.b64encode(content).decode()
            return f'<p><img alt="" src="data:image/png;base64,{data}"><br>{html.escape(title)}</p>'
    return f"<p>{html.escape(block[1])}</p>"


# --- rows


def chosen(rows: Sequence[Row], **fields: object) -> dict[int, Row]:
    """By seed, the rows whose job has these fields; of several the last."""
    return {row["job"].seed: row for row in rows if all(getattr(row["job"], k) == v for k, v in fields.items())}


def main(rows: Sequence[Row], framework: str, optimizer: str) -> dict[int, Row]:
    return chosen(rows, group="main", framework=framework, optimizer=optimizer)


def paired(one: dict[int, Row], other: dict[int, Row], value: Callable[[Row], float | None]) -> list[float]:
    """The difference of a value between two rows of each seed that both have."""
    pairs = [(value(one[seed]), value(other[seed])) for seed in sorted(one.keys() & other.keys())]
    return [a - b for a, b in pairs if a is not None and b is not None]


def iou(epochs: int, which: str = "best") -> Callable[[Row], float | None]:
    """The test IoU after so many epochs: of the best epoch on the validation images, or of the "last"."""
    return lambda row: row["scores"][str(epochs)][which][0] if str(epochs) in row["scores"] else None


def epochs_to_95(row: Row) -> float:
    """The first epoch with 95 % of the final validation IoU, which is the mean over the last tenth of the epochs."""
    curve = row["val_iou"]
    tail = curve[-max(len(curve) // 10, 1) :]
    wanted = 0.95 * sum(tail) / len(tail)
    return float(next(i for i, value in enumerate(curve, 1) if value >= wanted))


def seconds(row: Row) -> float:
    """Of a training epoch, the median: without compilation, validation and test."""
    return sorted(row["epoch_seconds"])[len(row["epoch_seconds"]) // 2]


def budgets(rows: Sequence[Row]) -> list[int]:
    return sorted({int(epochs) for row in rows if row["job"].group == "main" for epochs in row["scores"]})


# --- parts


def head(rows: Sequence[Row]) -> list[Block]:
    machines = sorted({
        f"{e['gpu'] or 'no GPU (interpreter)'}, torch {e['torch']}, triton {e['triton']}, {e['date']}, commit {e['commit']}"
        for e in (row["environment"] for row in rows)
    })  # fmt: skip
    return [
        ("heading", "The Oxford-IIIT Pet experiment of the MagmaDNN U-Net paper"),
        ("text", f"{len(rows)} runs; raw rows: rows.jsonl. " + "; ".join(machines) + "."),
    ]


def protocol(rows: Sequence[Row]) -> list[Block]:
    job: Job = next((row["job"] for row in rows if row["job"].group == "main"), rows[0]["job"])
    seeds = sorted({row["job"].seed for row in rows})
    rates = {f"lr_{row['job'].optimizer}": row["job"].lr for row in rows}
    epochs = {"epochs": ",".join(map(str, job.epochs))}
    return [
        ("text", command(rows, job, ("images", "test"), **rates, **epochs)),
        (
            "text",
            f"U-Net of {job.base_channels} channels and depth {job.depth}, {job.size}x{job.size} RGB, {job.images} training "
            f"and {job.test} test images, batch {job.batch}, constant learning rate, no augmentation, {job.precision}. "
            f"Seeds {seeds[0]} to {seeds[-1]} ({len(seeds)}), each with its own split, initial weights and order of images, "
            "which PyTorch's run of that seed shares. Every fifth training image validates and chooses the epoch; the test "
            "images are read once, after the last epoch. Ignored pixels, such as the unsure border of the trimaps, do not "
            "count. Scores are of the foreground, pooled over the test images; a run is read after each number of epochs. "
            "±: 95 % interval of the mean by the t distribution over seeds.",
        ),
    ]


def command(rows: Sequence[Row], job: Job, more: Sequence[str] = (), **given: object) -> str:
    """What makes these rows; options: some fields of one of their jobs, `more` of them, and those given."""
    given |= {name: getattr(job, name) for name in ("size", "base_channels", "depth", "precision", *more)}
    groups = dict.fromkeys(row["job"].group for row in rows)
    given |= {"seeds": ",".join(map(str, sorted({row["job"].seed for row in rows}))), "only": ",".join(groups)}
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in given.items())
    return f"Command: python examples/oxford_pets_experiment.py --data DIR --out DIR {options}"


def table(rows: Sequence[Row]) -> list[Block]:
    columns = [(framework, optimizer) for optimizer in ("adam", "sgd") for framework in reversed(NAMES)]
    found = [main(rows, *column) for column in columns]
    lines = []
    for epochs in budgets(rows):
        for which in ("best", "last"):
            cells = []
            for of in found:
                scores = [row["scores"][str(epochs)][which] for row in of.values() if str(epochs) in row["scores"]]
                cells.append(" / ".join(written([score[i] for score in scores]) for i in range(3)) if scores else "–")
            lines.append([f"{epochs}, {which}", *cells])
    names = NAMES | {"adam": "Adam", "sgd": "SGD + momentum"}
    read = "best: of the epoch that validation chooses, last: of the last"
    note = (
        "As the paper prints them. Dice is 2 IoU / (1 + IoU), so never below IoU, which its PyTorch column contradicts."
    )
    head = ["epochs", *(f"{names[f]}, {names[o]} ({len(of)})" for (f, o), of in zip(columns, found, strict=True))]
    theirs = [[str(epochs), *cells] for epochs, cells in PAPER.items()]
    blocks: list[Block] = [
        ("heading", "The paper's table"),
        ("text", f"IoU / Dice / pixel accuracy on the test images, in brackets the seeds; {read}."),
        ("table", head, lines),
        ("text", note),
        ("table", ["epochs", "PyTorch, Adam", "theirs, Adam", "theirs, SGD + momentum"], theirs),
    ]
    costs = []
    for (framework, optimizer), of in zip(columns, found, strict=True):
        if of:
            memory = [row["peak_gib"] for row in of.values() if row["peak_gib"] is not None]
            values = [[seconds(row) for row in of.values()], memory, [epochs_to_95(row) for row in of.values()]]
            cells = [written(v, digits) for v, digits in zip(values, (3, 2, 1), strict=True)]
            costs.append([f"{names[framework]}, {names[optimizer]}", *cells])
    blocks.append(
        ("table", ["", "seconds a training epoch", "peak GiB", "epochs to 95 % of the final validation IoU"], costs)
    )
    text = "On a GPU tritonnet's step is one CUDA graph. PyTorch's forward, loss and backward are one too, channels-last, with "
    text += "autocast and `cudnn.benchmark`; its fused optimizer follows."
    blocks.append(("text", text))
    return blocks


def peer(rows: Sequence[Row]) -> list[Block]:
    blocks: list[Block] = [("heading", "Beside PyTorch")]
    lines = []
    for optimizer in ("adam", "sgd"):
        ours, theirs = (main(rows, framework, optimizer) for framework in NAMES)
        for epochs in budgets(rows):
            differences = paired(ours, theirs, iou(epochs))
            mean, half = interval(differences)
            if differences:
                met = "not decided (one seed)" if half != half else "met" if mean - half >= -0.02 else "not met"
                lines.append([optimizer, str(epochs), str(len(differences)), written(differences), met])
    if lines:
        what = ["optimizer", "epochs", "pairs", "IoU, ours - PyTorch's", "lower end at least -0.02"]
        blocks.append(("table", what, lines))
    runs = [chosen(rows, group="parity", framework=name) for name in ("tritonnet", "torch", "torch-benchmark")]
    lines = []
    for seed in sorted(runs[0].keys() & runs[1].keys()):
        ours, theirs, *other = (of[seed]["first_losses"] for of in runs if seed in of)
        first, later = (relative(ours[part], theirs[part]) for part in (slice(0, 31), slice(31, None)))
        line = [str(seed), f"{max(first):.1e}", "met" if max(first) <= 1e-3 else "not met"]
        if other and later:
            spread = relative(other[0][31:], theirs[31:])
            ends = sum(later) / len(later), sum(spread) / len(spread)
            line += [f"{ends[0]:.1e}", f"{ends[1]:.1e}", "met" if ends[0] <= 2 * ends[1] else "not met"]
        lines.append(line + ["–"] * (6 - len(line)))
    if lines:
        what = ["seed", "largest of 31 steps", "at most 1e-3", "mean of the later steps", "between two cuDNN settings"]
        text = "Relative difference of the losses in fp32, ours to PyTorch's with deterministic algorithms; the later steps are "
        text += "held against twice that between PyTorch's deterministic and its fastest algorithms."
        blocks += [("text", text), ("table", [*what, "at most twice that"], lines)]
    return blocks if len(blocks) > 1 else []


def relative(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)]


def claims(rows: Sequence[Row]) -> list[Block]:
    adam, sgd = (main(rows, "tritonnet", optimizer) for optimizer in ("adam", "sgd"))
    bilinear, lines = chosen(rows, group="upsample", upsample="bilinear"), []

    def line(text: str, differences: list[float], digits: int = 3) -> None:
        if differences:
            lines.append([text, str(len(differences)), written(differences, digits), verdict(differences)])

    line("Adam needs fewer epochs than SGD to 95 % of the final IoU (epochs less)", paired(sgd, adam, epochs_to_95), 1)
    line("Adam needs less memory than SGD (GiB less)", paired(sgd, adam, lambda row: row["peak_gib"]), 2)
    for name, of in (("Adam", adam), ("SGD", sgd)):
        for more, less, text in (
            (60, 30, "60 epochs are better than 30"),
            (60, 90, "90 epochs overfit: 60 are better"),
        ):
            line(f"{text}, {name} (last epoch's IoU)", [
                a - b for row in of.values() if None not in (a := iou(more, "last")(row), b := iou(less, "last")(row))
            ])  # fmt: skip
    for epochs in budgets(rows):
        line(f"bilinear is better than transposed after {epochs} epochs (IoU)", paired(bilinear, adam, iou(epochs)))
    if not lines:
        return []
    what = ["claim, tested with tritonnet", "seeds", "mean difference", "by these runs"]
    text = "The claim on bilinear was made of Carvana after 5 epochs. A claim is confirmed where the interval lies above 0."
    return [("heading", "The paper's claims"), ("text", text), ("table", what, lines)]


def variants(rows: Sequence[Row]) -> list[Block]:
    base, lines = main(rows, "tritonnet", "adam"), []
    others = {(r["job"].group, r["job"].variant): r["job"] for r in rows if r["job"].group not in ("main", "parity")}
    found = {name: [r for r in rows if (r["job"].group, r["job"].variant) == name] for name in others}
    for (_, name), of in [(("", "as above: ce, transposed, concat"), list(base.values())), *found.items()]:
        by_seed = {row["job"].seed: row for row in of}
        if not by_seed:
            continue
        shared = sorted(set.intersection(*({int(e) for e in row["scores"]} for row in by_seed.values())))
        last = shared[-1]
        memory = [row["peak_gib"] for row in of if row["peak_gib"] is not None]
        lines.append([
            name, str(len(by_seed)), ", ".join(f"{e}: {written([iou(e)(r) for r in by_seed.values()])}" for e in shared),
            written(paired(by_seed, base, iou(last))) if by_seed != base else "",
            written([seconds(row) for row in of]), written(memory, 2), written([epochs_to_95(row) for row in of], 1),
        ])  # fmt: skip
    if len(lines) < 2:
        return []
    what = [
        "tritonnet, Adam",
        "seeds",
        "test IoU after epochs",
        "paired difference at the last",
        "s an epoch",
        "peak GiB",
    ]
    return [("heading", "Variants"), ("table", [*what, "epochs to 95 %"], lines)]


def scale(rows: Sequence[Row]) -> list[Block]:
    base = list(main(rows, "tritonnet", "adam").values())
    of = [row for row in rows if row["job"].group == "scale"]
    if not of:
        return []
    last, cells = max(of[0]["job"].epochs), {}
    for row in of + base:
        cells.setdefault((row["job"].images, row["job"].batch), []).append(iou(last)(row))
    batches = sorted({batch for _, batch in cells})
    lines = [
        [str(images), *(written([v for v in cells.get((images, batch), []) if v is not None]) for batch in batches)]
        for images in sorted({images for images, _ in cells})
    ]
    text = f"Test IoU after {last} epochs over the training images and the batch; more images are more steps an epoch."
    table = ("table", ["images", *(f"batch {batch}" for batch in batches)], lines)
    return [("heading", "More images, larger batches"), ("text", text), table]


def pictures(rows: Sequence[Row]) -> list[Block]:
    blocks: list[Block] = [("heading", "Pictures")]
    of = [row for row in rows if row["job"].group == "main"]
    if of:
        title = "Training loss and validation IoU by epoch, means over seeds; shaded: their 95 % intervals."
        blocks.append(("picture", "curves.png", title, curves(of)))
    if any("pictures" in row for row in of):
        last = max(budgets(rows))
        title = f"The test images of one seed, their truth (grey: ignored), and what each network found; best of {last} epochs. "
        title += "Images: Oxford-IIIT Pet dataset (Parkhi et al., 2012), CC BY-SA 4.0."
        blocks.append(("picture", "test_images.png", title, pets([row for row in of if "pictures" in row])))
    return blocks if len(blocks) > 1 else []


def final(which: str, i: int = 0) -> Callable[[Row], float]:
    """A test score after all epochs: of the "last" weights, of these with "flips", or of the "best"; IoU, Dice, accuracy."""
    return lambda row: row["scores"][str(max(row["job"].epochs))][which][i]


def recipes(rows: Sequence[Row]) -> list[Block]:
    kinds: dict[Job, dict[int, Row]] = {}  # rows by seed
    for row in sorted(rows, key=lambda row: (row["job"].data, row["job"].group, max(row["job"].epochs))):
        kinds.setdefault(replace(row["job"], seed=0), {})[row["job"].seed] = row
    lines, gains, contents = [], [], []
    for job, of in kinds.items():
        name, group = "tritonnet" if job.framework == "tritonnet" else "PyTorch", (job.data, job.group, job.framework)
        train, val, test = next(iter(of.values()))["split"]
        where = [job.data, f"{train} + {val} / {test}" if job.images else f"own split, {train} / {test}"]
        scores = [final("last"), final("last", 1), final("last", 2), final("flips"), final("best")]
        spent = [seconds(row) * len(row["epoch_seconds"]) for row in of.values()]
        cells = [*(written([score(row) for row in of.values()]) for score in scores), written(spent, 0)]
        lines.append([*where, job.recipe, name, str(len(of)), *cells])
        plain = [j for j in kinds if j.recipe == "plain" and (j.data, j.group, j.framework) == group]
        others = [(f"{name}: {job.recipe} - plain", other) for other in plain if job.recipe != "plain"]
        if name == "tritonnet":
            others.append((f"{job.recipe}: tritonnet - PyTorch", replace(job, framework="torch-benchmark")))
            amounts = ("batch", "optimizer", "lr", "schedule", "loss", "flips", "augment", "ema", "weight_decay")
            given = ", ".join(f"{amount} {getattr(job, amount)}" for amount in amounts if getattr(job, amount))
            contents.append(f"{', '.join(where)}, {job.recipe}: {max(job.epochs)} epochs, {given}")
        for title, other in others:
            by = [paired(of, kinds.get(other, {}), final(which)) for which in ("last", "flips")]
            if by[0]:
                gains.append([*where, title, str(len(by[0])), *map(written, by)])
    if not lines:
        return []
    job = max((row["job"] for row in rows), key=lambda job: job.images)
    text = (
        "Images to train on / to test with. On a folder's own split the test images choose the best epoch (of every "
        "fifth), as in `tritonnet train`, so it flatters; the last epoch nothing chooses. Elsewhere each seed has its own "
        "split, and a fifth of the images (+) chooses. "
        "Flips: the last epoch's probabilities averaged over four mirror images. PyTorch starts from our "
        "weights, with our batches and, where they are augmented, the images that our kernel makes; loss, gradients, optimizer, "
        "schedule and average of the weights are its own, with the forward and backward as one CUDA graph. Seconds: the median "
        "epoch's times the epochs, so without compilation and validation."
    )
    what = ["IoU, last epoch", "Dice", "pixel accuracy", "IoU, flips", "IoU, best epoch", "seconds to train"]
    differences = ["data", "images", "difference by seed", "pairs", "IoU, last epoch", "IoU, flips"]
    return [
        ("heading", "Recipes"), ("text", command(rows, job, ("images", "test") if job.images else ())), ("text", text),
        *(("text", line + ".") for line in contents), ("table", ["data", "images", "recipe", "by", "seeds", *what], lines),
        ("table", differences, gains),
    ]  # fmt: skip
