"""Training, evaluation and prediction: from a folder of images and masks to a run folder, scores and masks."""

from tritonnet.train.config import Config
from tritonnet.train.evaluation import evaluate
from tritonnet.train.metrics import Metrics
from tritonnet.train.prediction import Inference, predict
from tritonnet.train.report import Listener
from tritonnet.train.trained import Trained
from tritonnet.train.training import Run, resume, train

__all__ = ["Config", "Inference", "Listener", "Metrics", "Run", "Trained", "evaluate", "predict", "resume", "train"]
