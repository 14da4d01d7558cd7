"""Losses and metrics: `(prediction, target) -> LossValue(total, weight)`, whose mean is `total / weight`.

This holds for a batch and for an epoch: totals and weights add up, so class weights, ignored rows and a short last batch
count correctly. A metric is a function of the same type that is not differentiated, or a `Metric`: any sums, and their result.
"""

from fnlamp.loss.accuracy import accuracy as accuracy
from fnlamp.loss.accuracy import binary_accuracy as binary_accuracy
from fnlamp.loss.accuracy import multilabel_accuracy as multilabel_accuracy
from fnlamp.loss.accuracy import top_k_accuracy as top_k_accuracy
from fnlamp.loss.calibration import calibration_error as calibration_error
from fnlamp.loss.calibration import perplexity as perplexity
from fnlamp.loss.classes import cross_entropy as cross_entropy
from fnlamp.loss.classes import focal as focal
from fnlamp.loss.classes import hinge as hinge
from fnlamp.loss.classes import nll as nll
from fnlamp.loss.counts import Average as Average
from fnlamp.loss.counts import confusion_matrix as confusion_matrix
from fnlamp.loss.counts import f1 as f1
from fnlamp.loss.counts import precision as precision
from fnlamp.loss.counts import recall as recall
from fnlamp.loss.ctc import ctc as ctc
from fnlamp.loss.distributions import gaussian_nll as gaussian_nll
from fnlamp.loss.distributions import kl_divergence as kl_divergence
from fnlamp.loss.distributions import poisson_nll as poisson_nll
from fnlamp.loss.numbers import bce_with_logits as bce_with_logits
from fnlamp.loss.numbers import huber as huber
from fnlamp.loss.numbers import identity as identity
from fnlamp.loss.numbers import l1 as l1
from fnlamp.loss.numbers import mse as mse
from fnlamp.loss.numbers import smooth_l1 as smooth_l1
from fnlamp.loss.overlap import dice as dice
from fnlamp.loss.ranking import auroc as auroc
from fnlamp.loss.ranking import exact_auroc as exact_auroc
from fnlamp.loss.regression import mae as mae
from fnlamp.loss.regression import r2 as r2
from fnlamp.loss.regression import rmse as rmse
from fnlamp.loss.terms import sum as sum
from fnlamp.loss.value import Loss as Loss
from fnlamp.loss.value import LossValue as LossValue
from fnlamp.loss.value import Metric as Metric
from fnlamp.loss.value import MetricLike as MetricLike
from fnlamp.loss.value import as_loss as as_loss
from fnlamp.loss.value import as_metric as as_metric
from fnlamp.loss.value import checked_value as checked_value
from fnlamp.loss.value import differentiable as differentiable
from fnlamp.loss.vectors import cosine_distance as cosine_distance
from fnlamp.loss.vectors import triplet as triplet
