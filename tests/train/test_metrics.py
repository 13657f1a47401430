"""Metrics against cases counted by hand."""

import math

import pytest

from tritonnet.train import Metrics


def test_two_classes_score_the_foreground() -> None:
    metrics = Metrics.from_matrix([[50, 10], [5, 35]])  # TN 50, FP 10, FN 5, TP 35
    assert metrics.iou == 35 / 50
    assert metrics.dice == 70 / 85
    assert metrics.pixel_accuracy == 85 / 100
    assert metrics.class_iou == (50 / 65, 35 / 50)
    assert metrics.class_precision == (50 / 55, 35 / 45)
    assert metrics.class_recall == (50 / 60, 35 / 40)


def test_more_classes_score_the_mean_over_those_present() -> None:
    metrics = Metrics.from_matrix([[4, 0, 0, 2], [0, 0, 0, 0], [0, 0, 3, 0], [0, 0, 0, 0]])
    # class 1 is nowhere; class 3 is only predicted, which scores 0
    assert metrics.iou == pytest.approx((4 / 6 + 3 / 3 + 0) / 3)
    assert math.isnan(metrics.class_iou[1])
    assert metrics.class_precision[3] == 0
    assert math.isnan(metrics.class_recall[3])


def test_dice_follows_from_iou() -> None:
    metrics = Metrics.from_matrix([[7, 3, 1], [2, 9, 0], [4, 0, 5]])
    for iou, dice in zip(metrics.class_iou, metrics.class_dice, strict=True):
        assert dice == pytest.approx(2 * iou / (1 + iou))


def test_nothing_to_score_is_nan() -> None:
    metrics = Metrics.from_matrix([[0, 0], [0, 0]])
    assert math.isnan(metrics.iou)
    assert math.isnan(metrics.pixel_accuracy)
