"""Quality of estimated signals: SI-SDR improvement, PESQ and STOI, means over utterances."""

from mt4ssl_bench.results.intervals import Bounds
from mt4ssl_bench.results.metrics.mean_of_values import MeanOfValues
from mt4ssl_bench.results.metrics.metric import Metric

SI_SDRI = Metric(
    name="si_sdri",
    value=MeanOfValues("si_sdri"),
    title="SI-SDRi",
    unit="dB",
    higher_is_better=True,
    order=80,
    bounds=Bounds(-30.0, 30.0),
)
PESQ = Metric(
    name="pesq",
    value=MeanOfValues("pesq"),
    unit="",
    higher_is_better=True,
    order=82,
    bounds=Bounds(1.0, 4.65),  # of the wide-band mapping, ITU-T P.862.2
)
STOI = Metric(
    name="stoi",
    value=MeanOfValues("stoi"),
    higher_is_better=True,
    order=84,
)
