"""The report of the rows: tables and sentences by the numbers, as Markdown and as one self-contained HTML page."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from oxford_pets.figures import NAMES, curves, pets
from oxford_pets.intervals import interval, verdict, written
from oxford_pets.jobs import GROUPS, LENGTHS, Job, Row
from oxford_pets.recipes import differences_of, recipes
from oxford_pets.values import (
    Block,
    budgets,
    chosen,
    commands,
    epochs_to_95,
    iou,
    known,
    main,
    paired,
    peak,
    seconds,
)  # fmt: skip

PAPER = {  # IoU / Dice / pixel accuracy: PyTorch with Adam, theirs with Adam, theirs with SGD
    30: (".270 / .234 / .189", ".431 / .501 / .291", ".395 / .459 / .273"),
    60: (".713 / .260 / .406", ".727 / .747 / .419", ".698 / .733 / .408"),
    90: (".782 / .256 / .433", ".657 / .704 / .393", ".677 / .717 / .401"),
}
STYLE = "body{font:15px sans-serif;max-width:72em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
STYLE += "td,th{border:1px solid #ccc;padding:.25em .6em;text-align:left}img{max-width:100%}pre{white-space:pre-wrap}"


def write(folder: Path, rows: Sequence[Row]) -> list[Path]:
    """Write report.md with its pictures, and report.html; the files' names."""
    blocks, others = head(rows) + summary(rows), [row for row in rows if row["job"].group not in LENGTHS]
    for part in (protocol, table, peer, claims, variants, scale, pictures) if others else ():
        blocks += part(others)
    blocks += recipes(rows)
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
        case ("code", text):
            return f"```\n{text}\n```"
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
        case ("picture", name, title, content):
            data, kind = base64.b64encode(content).decode(), "jpeg" if name.endswith("jpg") else "png"
            return f'<p><img alt="" src="data:image/{kind};base64,{data}"><br>{html.escape(title)}</p>'
        case ("code", text):
            return f"<pre>{html.escape(text)}</pre>"
    return f"<p>{html.escape(block[1])}</p>"


# --- parts


def head(rows: Sequence[Row]) -> list[Block]:
    seen = [row["environment"] for row in rows]
    machine, days, commits = (
        ", ".join(sorted({*values}))
        for values in (
            (f"{e['gpu'] or 'no GPU (interpreter)'}, torch {e['torch']}, triton {e['triton']}" for e in seen),
            (e["date"] for e in seen), (str(e["commit"]) for e in seen),
        )
    )  # fmt: skip
    return [
        ("heading", "The Oxford-IIIT Pet experiment of the MagmaDNN U-Net paper"),
        ("text", f"{len(rows)} runs, each on one {machine}; {days}; commit {commits}."),
    ]


def summary(rows: Sequence[Row]) -> list[Block]:
    """The answers, by the numbers of the tables below."""
    lines = []
    if len(differences := pooled(rows)) > 2:
        text = "IoU of the 31/7 runs, mean of both optimizers, all numbers of epochs, best and last epoch: ours less PyTorch's, "
        text += "lower end at least -0.02"
        lines.append([text, *compared(differences)[1:]])
    if found := first_losses(rows):
        first, own, later = (sum(line[i] for line in found) for i in (1, 2, 3))
        text = f"fp32, first 31 losses at most 1e-3 from PyTorch's (two settings of PyTorch: {own} of {len(found)})"
        lines.append([text, f"{first} of {len(found)} runs", met(first == len(found))])
        text = "fp32, later losses at most twice as far from PyTorch's as two settings of PyTorch are from each other"
        lines.append([text, f"{later} of {len(found)} runs", met(later == len(found))])
    lines += [[f"The paper: {claim}", number, decided] for claim, _, number, decided in judged(rows)]
    lines += [
        [f"{data}, {images}: {title}", number, decided]
        for data, images, title, _, number, _, _, decided in differences_of(rows)
    ]
    return [("heading", "Summary"), ("table", ["question", "found", "answer"], lines)] if lines else []


def protocol(rows: Sequence[Row]) -> list[Block]:
    job: Job = next((row["job"] for row in rows if row["job"].group == "main"), rows[0]["job"])
    seeds = {row["job"].seed for row in rows if row["job"].group == job.group}
    options = {f"lr_{row['job'].optimizer}": row["job"].lr for row in rows} | {"epochs": ",".join(map(str, job.epochs))}
    options |= {name: getattr(job, name) for name in ("size", "base_channels", "depth", "images", "test", "precision")}
    return [
        ("heading", "What was run"),
        *commands(rows, **options),
        (
            "text",
            f"U-Net of {job.base_channels} channels and depth {job.depth}, {job.size}x{job.size} RGB, {job.images} training "
            f"and {job.test} test images, batch {job.batch}, constant learning rate, no augmentation, {job.precision}. "
            f"{len(seeds)} seeds, each with its own split, initial weights and order of images, "
            "which PyTorch's run of that seed shares. Every fifth training image validates and chooses the epoch; the test "
            "images are read once, after the last epoch. Ignored pixels, such as the unsure border of the trimaps, do not "
            "count. Scores are of the foreground, pooled over the test images; a run is read after each number of epochs. "
            "±: 95 % interval of the mean by the t distribution over seeds; of two seeds their values follow.",
        ),
    ]


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
            values = ((seconds, 3), (peak, 2), (epochs_to_95, 1))
            cells = [written(known([*of.values()], value), digits) for value, digits in values]
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
            for which in ("best", "last"):
                if differences := paired(ours, theirs, iou(epochs, which)):
                    lines.append([optimizer, f"{epochs}, {which}", *compared(differences)])
    mean = pooled(rows)
    if len(lines) > 1 and mean:
        lines.append(["both", "mean of all above", *compared(mean)])
    if lines:
        what = ["optimizer", "epochs", "pairs", "IoU, ours - PyTorch's", "lower end at least -0.02"]
        blocks.append(("table", what, lines))
    twins = [chosen(rows, group="parity", framework=name, optimizer="adam") for name in ("torch-benchmark", "torch")]
    for epochs in sorted({int(e) for row in twins[0].values() for e in row["scores"]}):
        if len(differences := paired(*twins, iou(epochs))) > 1:
            text = "How far chance reaches: two runs of PyTorch in fp32, from the same weights on the same batches, that differ "
            text += f"in cuDNN's algorithms alone, are {written(differences)} apart after {epochs} epochs, by Adam, best epoch."
            blocks.append(("text", text))
    lines = [line for line, *_ in first_losses(rows)]
    if lines:
        text = "Relative difference of the losses in fp32 to PyTorch's with deterministic algorithms: of ours, and beside it of "
        text += "PyTorch's own with the algorithms that it finds fastest. The later steps are held against twice the latter."
        what = ["optimizer", "seed", "ours, first step", "ours, largest of 31", "PyTorch's own", "ours at most 1e-3"]
        what += ["ours, mean of the later", "PyTorch's own", "ours at most twice that"]
        blocks += [("text", text), ("table", what, lines)]
    return blocks if len(blocks) > 1 else []


def first_losses(rows: Sequence[Row]) -> list[tuple[list[str], bool, bool, bool]]:
    """Of each optimizer and seed: a line; whether our first 31 losses are close to PyTorch's, its own, and our later ones."""
    found = []
    for optimizer in ("adam", "sgd"):
        runs = [
            chosen(rows, group="parity", framework=f, optimizer=optimizer)
            for f in ("tritonnet", "torch", "torch-benchmark")
        ]
        for seed in sorted(set.intersection(*(set(of) for of in runs))):
            ours, theirs, other = (of[seed]["first_losses"] for of in runs)
            apart, spread = relative(ours, theirs), relative(other, theirs)
            first, own = max(apart[:31]), max(spread[:31])
            ends = [sum(part[31:]) / max(len(part[31:]), 1) for part in (apart, spread)]
            close = first <= 1e-3, own <= 1e-3, ends[0] <= 2 * ends[1]
            numbers = [
                f"{apart[0]:.0e}",
                f"{first:.1e}",
                f"{own:.1e}",
                met(close[0]),
                *(f"{end:.1e}" for end in ends),
                met(close[2]),
            ]
            found.append(([optimizer, str(seed), *numbers], *close))
    return found


def met(condition: bool) -> str:
    return "met" if condition else "not met"


def compared(differences: Sequence[float]) -> list[str]:
    """Pairs, mean with interval, and whether its lower end is at least -0.02."""
    mean, half = interval(differences)
    return [
        str(len(differences)),
        written(differences),
        met(mean - half >= -0.02) if half == half else "not decided (one seed)",
    ]


def pooled(rows: Sequence[Row]) -> list[float]:
    """Of each seed the mean difference to PyTorch over both optimizers, all numbers of epochs, and best and last epoch."""
    found = [
        {
            seed: one[seed]["scores"][e][which][0] - other[seed]["scores"][e][which][0]
            for seed in one.keys() & other.keys()
        }
        for optimizer in ("adam", "sgd")
        for one, other in [[main(rows, framework, optimizer) for framework in NAMES]]
        for e in map(str, budgets(rows))
        for which in ("best", "last")
    ]
    shared = sorted(set.intersection(*map(set, found))) if found else []
    return [sum(differences[seed] for differences in found) / len(found) for seed in shared]


def relative(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)]


def judged(rows: Sequence[Row]) -> list[list[str]]:
    """A line for each claim of the paper."""
    adam, sgd = (main(rows, "tritonnet", optimizer) for optimizer in ("adam", "sgd"))
    bilinear, lines = chosen(rows, group="upsample", upsample="bilinear"), []

    def line(text: str, differences: list[float], digits: int = 3) -> None:
        if differences:
            lines.append([text, str(len(differences)), written(differences, digits), verdict(differences)])

    line("Adam needs fewer epochs than SGD to 95 % of the final IoU (epochs less)", paired(sgd, adam, epochs_to_95), 1)
    line("Adam needs less memory than SGD (GiB less)", paired(sgd, adam, peak), 2)
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
    return lines


def claims(rows: Sequence[Row]) -> list[Block]:
    what = ["claim, tested with tritonnet", "seeds", "mean difference", "by these runs"]
    text = "The claim on bilinear was made of Carvana after 5 epochs. A claim is confirmed where the interval lies above 0."
    lines = judged(rows)
    return [("heading", "The paper's claims"), ("text", text), ("table", what, lines)] if lines else []


def variants(rows: Sequence[Row]) -> list[Block]:
    base = main(rows, "tritonnet", "adam")
    of = [row for row in rows if row["job"].group in ("losses", "upsample", "skip", "resunet")]
    kinds = {"Adam: ce, transposed, concat": base, "SGD: the same": main(rows, "tritonnet", "sgd")}
    for row in sorted(of, key=lambda row: (list(GROUPS).index(row["job"].group), row["job"].variant)):
        kinds.setdefault(row["job"].variant, {})[row["job"].seed] = row
    epochs, lines = budgets(rows), []
    if not of or not epochs:
        return []
    for name, by_seed in kinds.items():
        found = list(by_seed.values())
        if found:
            differences = written(paired(by_seed, base, iou(epochs[-1]))) if by_seed is not base else ""
            costs = (
                written(known(found, seconds)),
                written(known(found, peak), 2),
                written(known(found, epochs_to_95), 1),
            )
            lines.append([name, str(len(found)), *(written(known(found, iou(e))) for e in epochs), differences, *costs])
    what = ["variant", "seeds", *(f"IoU, {e} epochs" for e in epochs), f"less Adam's of the same seeds, {epochs[-1]}"]
    text = "What differs from the first line, which is the network above by Adam; best epochs. Seconds are of runs that had the "
    text += "GPU to themselves."
    table = ("table", [*what, "s an epoch", "peak GiB", "epochs to 95 %"], lines)
    return [("heading", "Variants"), ("text", text), table]


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
        blocks.append(("picture", "test_images.jpg", title, pets([row for row in of if "pictures" in row])))
    return blocks if len(blocks) > 1 else []
