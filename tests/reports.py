"""A report written by hand, in round numbers."""

from vibfx.metrics import Shares
from vibfx.report import LayerChange, Report, Side
from vibfx.training.course import PhaseReport
from vibfx.training.evaluation import Score

REPORT = Report(
    model="net.pt",
    data="digits",
    caution="",
    target="flops=0.25",
    seed=3,
    before=Side(
        parameters=1_234_567,
        weights=1_200_000,
        flops=40_000_000.0,
        features=20_000.0,
        onnx_bytes=4_940_000,
        onnx_nodes=17,
        any_size=False,
        score=Score(accuracy=0.9812, loss=0.07, agreement=1.0, error=0.0),
        latency_ms=2.5,
    ),
    after=Side(
        parameters=123_456,
        weights=120_000,
        flops=9_800_000.0,
        features=8_000.0,
        onnx_bytes=98_700,
        onnx_nodes=16,
        any_size=False,
        score=Score(accuracy=0.9787, loss=0.09, agreement=0.985, error=0.031),
        latency_ms=0.75,
    ),
    phases=(
        PhaseReport("compress", 12, 40.5, Score(accuracy=0.9341)),
        PhaseReport("fine-tune", 3, 9.5, Score(accuracy=0.9777)),
    ),
    shares=Shares(r_w=0.1, r_n=0.4, flops=0.245, params=0.09999),
    layers=(
        LayerChange("features.0", 64, 32, 1_728, 864, 1_769_472.0, 884_736.0),
        LayerChange("head", 10, 10, 51_200, 5_120, 51_200.0, 5_120.0),
    ),
    units=1_500,
    units_left=400,
    equivalence_error=3.9e-16,
    parity=4.1e-07,
    variants=(),
    interrupted=False,
    seconds=61.5,
    versions={"vibfx": "0.1.0"},
)
