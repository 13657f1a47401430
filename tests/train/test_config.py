"""Config: its file, its ranges, its defaults."""

from pathlib import Path

import pytest

from tritonnet.kernels.runtime import INTERPRET, Refused
from tritonnet.train import Config
from tritonnet.train.config import HELP


def test_file_keeps_every_field(tmp_path: Path) -> None:
    config = Config(
        data='/a "quoted" \\ ü path', out="x", model="poster", lr=3e-7, epochs=2, flips=False, max_seconds=1.5
    )
    config.save(tmp_path / "config.toml")
    assert Config.load(tmp_path / "config.toml") == config


def test_every_field_is_explained(tmp_path: Path) -> None:
    assert all(HELP.values())
    Config().save(tmp_path / "config.toml")
    text = (tmp_path / "config.toml").read_text(encoding="utf-8")
    assert all(f"# {meaning}" in text for meaning in HELP.values())


def test_machine_defaults_yield_to_what_was_chosen() -> None:
    config = Config.for_machine(size=48, lr=None)
    assert config.size == 48
    assert config.lr == 1e-3
    assert config.model == ("poster" if INTERPRET else "unet")
    assert Config.for_machine(model="resunet").depth == 3
    assert Config.for_machine(model="resunet", depth=2).depth == 2


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("model", "vgg", "model must be one of unet, resunet, poster, got 'vgg'"),
        ("optimizer", "lion", "optimizer must be one of"),
        ("precision", "int8", "precision must be one of"),
        ("size", 0, "size must be at least 1 and at most 8192, got 0"),
        ("size", 8193, "size must be at least 1 and at most 8192, got 8193"),
        ("batch_size", 10**6, "batch_size must be at least 1 and at most 65536"),
        ("epochs", 10**9, "epochs must be at least 0 and at most 1000000"),
        ("epochs", -1, "epochs must be at least 0 and at most 1000000, got -1"),
        ("batch_size", -1, "batch_size must be at least 1"),
        ("lr", 0.0, "lr must be at least 1e-30 and below inf, got 0.0"),
        ("lr", float("nan"), "lr must be at least 1e-30 and below inf, got nan"),
        ("weight_decay", float("inf"), "weight_decay must be at least 0 and below inf, got inf"),
        ("clip", float("inf"), "clip must be at least 0 and below inf, got inf"),
        ("ema", 1.0, "ema must be at least 0 and below 1"),
        ("accumulate", 0, "accumulate must be at least 1"),
        ("skip", "none", "skip must be one of concat, add, got 'none'"),
        ("down", "mean", "down must be one of pool, conv, got 'mean'"),
        ("dropout", 1.0, "dropout must be at least 0 and below 1"),
        ("momentum", 1.0, "momentum must be at least 0 and below 1"),
        ("size", "large", "size must be int, got 'large'"),
        ("loss", "ce + iou", "each term must be one of ce, focal, dice, distance, got 'iou'"),
        ("class_weights", "rare", "must be auto, or numbers above 0"),
        ("seed", -1, "seed must be at least 0"),
    ],
)
def test_refuses(field: str, value: object, says: str) -> None:
    with pytest.raises(Refused, match=says):
        Config(**{field: value})  # type: ignore[arg-type]


def test_recompute_is_of_unet() -> None:
    with pytest.raises(Refused, match="recompute must be 0 for poster, got 1"):
        Config(model="poster", recompute=1)


def test_class_weights_that_change_nothing_are_refused() -> None:
    for weights in ("auto", "1,5"):
        with pytest.raises(Refused, match="class_weights must come with another loss beside dice, got 2\\*dice"):
            Config(loss="2*dice", class_weights=weights)
        Config(loss="ce + dice", class_weights=weights)


BAD_FILES = {
    "size = ": "must be TOML",
    "sise = 3": r"must hold only known names, got sise; did you mean size\?",
    "wibble = 3": "must hold only known names, got wibble; there are data, out, model",
    "size = 1.5": "size must be int",
}


@pytest.mark.parametrize("text", BAD_FILES)
def test_refuses_a_bad_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(Refused, match=BAD_FILES[text]):
        Config.load(tmp_path / "config.toml")


def test_refuses_no_file(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="found none"):
        Config.load(tmp_path / "config.toml")
