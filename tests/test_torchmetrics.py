"""Metrics of torchmetrics, under flowbind's names: the same values as torchmetrics gives for the raw samples."""

import pytest
import torch
import torchmetrics

from flowbind.evaluation.by_torchmetrics import TorchMetric
from flowbind.registry import load

WORDS = ["a red cube", "one blue ball", "größer"]
REAL = ["a red cube", "a blue ball", "größer"]


def pictures(seed):
    generator = torch.Generator().manual_seed(seed)
    return list(
        torch.randint(256, (70, 3, 16, 16), generator=generator).to(torch.uint8)
    )


def judged(metric, made, real):
    return metric.compute(metric.features("x", made), metric.features("x", real))


def test_pictures_in_batches_give_what_all_of_them_give():
    metric = TorchMetric(
        "torchmetrics.image.PeakSignalNoiseRatio", "image", settings={"data_range": 1.0}
    )
    made, real = pictures(0), pictures(1)
    reference = torchmetrics.image.PeakSignalNoiseRatio(data_range=1.0)
    expected = reference(torch.stack(made) / 255, torch.stack(real) / 255)
    name = "peak-signal-noise-ratio[torchmetrics,data_range=1.0]"
    assert judged(metric, made, real) == {name: pytest.approx(expected.item())}
    assert metric.against == "image"
    assert metric.fingerprint()["torchmetrics"] == torchmetrics.__version__
    assert type(metric).rebuild(metric.describe()).fingerprint() == metric.fingerprint()


def test_strings_are_strings():
    metric = TorchMetric("torchmetrics.text.WordErrorRate", "text")
    reference = torchmetrics.text.WordErrorRate()(WORDS, REAL)
    assert judged(metric, WORDS, REAL) == {
        "word-error-rate[torchmetrics]": pytest.approx(reference.item())
    }
    with pytest.raises(ValueError, match="longer than 1024 bytes"):
        metric.features("text", ["ab" * 600])


def test_several_values_have_a_name_each():
    metric = TorchMetric("torchmetrics.text.BLEUScore", "text", settings={"n_gram": 1})
    (name,) = judged(metric, WORDS, REAL)
    assert name == "bleu-score[torchmetrics,n_gram=1]"

    metric = TorchMetric(
        "torchmetrics.PearsonCorrCoef", "x", settings={"num_outputs": 1}
    )
    metric._class = SumAndMean
    metric.settings = None
    assert judged(metric, [torch.ones(2)] * 3, [torch.ones(2)] * 3) == {
        "sum-and-mean-sum[torchmetrics]": 6,
        "sum-and-mean-mean[torchmetrics]": 1,
    }


class SumAndMean(torchmetrics.Metric):
    """Of one set alone, and a mapping."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("seen", torch.zeros(2), dist_reduce_fx="sum")

    def update(self, made):
        self.seen += made.sum(0)

    def compute(self):
        return {"sum": self.seen.sum(), "mean": self.seen.mean() / 3}


class Sides(torchmetrics.Metric):
    """One set after the other, as the Frechet distance takes them."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("sides", torch.zeros(2), dist_reduce_fx="sum")

    def update(self, samples, real):
        self.sides[int(real)] += samples.sum()

    def compute(self):
        return self.sides


def test_one_set_after_the_other():
    metric = TorchMetric("torchmetrics.PearsonCorrCoef", "x")
    metric._class = Sides
    assert judged(metric, [torch.ones(2)] * 70, [torch.zeros(2)] * 70) == {
        "sides[torchmetrics]": 70  # the mean of 140 and 0
    }


def test_samples_of_several_shapes_need_a_size():
    metric = TorchMetric("torchmetrics.MeanSquaredError", "image")
    several = [torch.zeros(3, n, 8, dtype=torch.uint8) for n in (8, 9)]
    with pytest.raises(
        ValueError, match=r"shapes \(3, 8, 8\) and \(3, 9, 8\); give size"
    ):
        metric.features("image", several)
    sized = TorchMetric("torchmetrics.MeanSquaredError", "image", size=[4, 4])
    features = sized.features("image", several)
    assert (features.shape, features.dtype) == ((2, 3, 4, 4), torch.uint8)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "torchmetrics.image.PeakSignalNoiseRato",
            "did you mean 'PeakSignalNoiseRatio'",
        ),
        ("torchmetrics.functional", "no class of a metric"),
        ("os.path", "a class of torchmetrics"),
    ],
)
def test_only_metrics_of_torchmetrics(path, message):
    with pytest.raises(ValueError, match=message):
        TorchMetric(path, "image")


def test_what_a_metric_needs_is_one_line():
    metric = TorchMetric("torchmetrics.MeanSquaredError", "image", settings={"no": 1})
    task = TorchMetric("torchmetrics.Accuracy", "image")
    with pytest.raises(ValueError, match=r"'task'; its arguments are `settings`$"):
        task.features("image", [torch.zeros(3)])
    with pytest.raises(
        ValueError, match=r"^torchmetrics.MeanSquaredError: .*no"
    ) as error:
        metric.features("image", [torch.zeros(3)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "kinds", "samples"),
    [
        ("text.BLEUScore", ["image"], [pictures(0)[:1]]),
        ("image.StructuralSimilarityIndexMeasure", ["text"], [WORDS[:1]]),
        (
            "image.StructuralSimilarityIndexMeasure",
            ["image", "text"],
            [pictures(0)[:1], WORDS[:1]],
        ),
    ],
)
def test_a_metric_of_other_samples_is_refused_by_its_first(name, kinds, samples):
    """Before anything is generated."""
    metric = TorchMetric(f"torchmetrics.{name}", kinds[0], kinds[-1])
    for kind, raws in list(zip(kinds, samples, strict=True))[:-1]:
        metric.features(kind, raws)
    with pytest.raises(ValueError, match=r"does not take samples of '(image|text)'"):
        metric.features(kinds[-1], samples[-1])


def test_it_is_registered():
    assert load("metrics", "torchmetrics") is TorchMetric
