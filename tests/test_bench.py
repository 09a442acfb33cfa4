"""The benches: the harness on a clock that is told what to say, the meter on known programs.

Nothing here looks at real time: a test must not fail because the machine is busy.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from itertools import cycle

import pytest
import torch
from conftest import TINY
from torch import Tensor

from facever.bench import (
    BENCHES,
    Options,
    Row,
    Timing,
    ask,
    compare,
    eer,
    growth,
    heads,
    identify,
    load,
    peak_bytes,
    run,
    save,
    start,
    step,
    submit,
    synth,
    table,
    trace,
)
from facever.bench.memory import free_bytes
from facever.errors import ConfigError
from facever.losses import LOSSES, build_loss

SMALL = Options(repeats=3, identities=(50,))
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

N = 1 << 20  # floats of a buffer
BUFFER = 4 * N


class Clock:
    """Time that passes only where it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls = ""

    def __call__(self) -> float:
        return self.now

    def side(self, name: str, durations: list[float]) -> Callable[[], None]:
        waiting = iter(durations)

        def work() -> None:
            self.calls += name
            self.now += next(waiting)

        return work


def test_two_sides_take_turns_and_the_first_turn_is_left_out():
    clock = Clock()
    timing = compare(
        clock.side("s", [900.0, 2.0, 4.0, 3.0]),
        clock.side("f", [1.0, 4.0, 4.0, 4.0]),
        repeats=3,
        clock=clock,
    )
    assert clock.calls == "fsfsfsfs"
    assert (timing.ratio, timing.seconds, timing.floor_seconds) == (0.75, 3.0, 4.0)


def test_the_ratio_is_taken_repeat_by_repeat_so_that_a_drift_of_the_machine_cancels():
    clock = Clock()
    drift = [1.0, 1.0, 10.0, 3.0, 30.0, 0.1]
    timing = compare(
        clock.side("s", [0.5 * seconds for seconds in drift]),
        clock.side("f", drift),
        repeats=5,
        clock=clock,
    )
    assert (timing.low, timing.ratio, timing.high) == pytest.approx((0.5, 0.5, 0.5))


def test_low_and_high_are_the_quartiles_of_the_ratios():
    clock = Clock()
    timing = compare(
        clock.side("s", [1.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        clock.side("f", [1.0] * 6),
        repeats=5,
        clock=clock,
    )
    assert (timing.low, timing.ratio, timing.high, timing.spread) == (2.0, 3.0, 4.0, 2.0)


def test_what_is_done_before_a_side_costs_nothing_and_what_is_waited_for_after_it_counts():
    clock = Clock()
    timing = compare(
        clock.side("s", [2.0] * 4),
        clock.side("f", [3.0] * 4),
        repeats=3,
        before=clock.side("b", [100.0] * 8),
        after=clock.side("a", [1.0] * 8),
        clock=clock,
    )
    assert (timing.seconds, timing.floor_seconds) == (3.0, 4.0)


@pytest.mark.parametrize(
    ("ratio", "spread", "aim", "said"),
    [
        (0.70, 0.02, 0.8, "met"),
        (0.90, 0.02, 0.8, "missed"),
        (0.79, 0.02, 0.8, "too close to call"),
        (0.81, 0.02, 0.8, "too close to call"),
        (0.50, 0.50, 0.8, "too close to call"),
        (0.97, 0.01, None, "faster"),
        (1.03, 0.01, None, "slower"),
        (1.03, 0.05, None, "no difference"),
    ],
)
def test_a_difference_within_its_own_spread_is_not_called_one(ratio, spread, aim, said):
    timing = Timing(ratio, ratio - spread / 2, ratio + spread / 2, ratio, 1.0)
    assert timing.verdict(aim) == said


def test_too_few_repeats_for_a_spread_are_refused():
    with pytest.raises(ConfigError, match="--repeats: 2; expected at least 3"):
        Options(repeats=2)


def leaf(device: str, size: int = 1) -> Tensor:
    return torch.ones(size, device=device, requires_grad=True)


def buffers(step: Callable[[], Tensor], x: Tensor) -> float:
    peak = peak_bytes(step, [x])
    assert peak is not None
    return peak / BUFFER


@pytest.mark.parametrize("device", DEVICES)
def test_the_meter_sees_the_most_that_is_alive_at_once(device):
    """Two buffers, one given back before a half comes: 2 at the most, 2.5 in all."""
    x = leaf(device)

    def program() -> Tensor:
        first, second = torch.empty(N, device=device), torch.empty(N, device=device)
        del first
        half = torch.empty(N // 2, device=device)
        assert len(second) == 2 * len(half)
        return x.sum()

    assert buffers(program, x) == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize("device", DEVICES)
def test_the_meter_counts_what_was_there_before_for_nothing(device):
    x = leaf(device)
    there = torch.ones(N, device=device)
    assert buffers(lambda: x.sum() + there.neg_().sum(), x) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("device", DEVICES)
def test_the_meter_sees_into_the_backward_pass_of_a_custom_function(device):
    class Own(torch.autograd.Function):
        """Keeps one buffer; the backward pass makes `extra` more, or works in place."""

        @staticmethod
        def forward(ctx, x: Tensor, extra: int) -> Tensor:
            kept = x.new_ones(N).mul_(2).exp_()
            ctx.save_for_backward(kept)
            ctx.extra = extra
            return kept.sum() * x.sum()

        @staticmethod
        def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
            (kept,) = ctx.saved_tensors
            kept.mul_(2).clamp_(max=1)
            more = [kept + 1 for _ in range(ctx.extra)]
            return (grad * kept.amax() + len(more) * grad).expand(1), None

    x = leaf(device)
    for extra in (0, 1, 3):
        peak = buffers(lambda extra=extra: Own.apply(x, extra), x)
        assert peak == pytest.approx(1 + extra, abs=0.01)


@pytest.mark.parametrize("device", DEVICES)
def test_the_meter_sees_what_a_kernel_holds_for_itself(device):
    """`logsumexp` returns one number, but its exponentials fill a buffer for a moment."""
    x = leaf(device)
    there = torch.ones(N, device=device)
    assert buffers(lambda: x.sum() * there.logsumexp(0), x) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("device", DEVICES)
def test_the_gradients_of_the_leaves_are_not_counted(device):
    x = leaf(device, N)
    for _ in range(2):
        assert buffers(lambda: x.sum(), x) == pytest.approx(0, abs=0.01)
        assert x.grad is not None


def test_every_loss_has_a_row_of_finite_numbers():
    rows = list(heads.measure(SMALL, batch=8, dim=16, embeddings=16))
    scaled = [f"{heads.AT_SCALE} {way}" for way in heads.SCALED]
    assert sorted(row.name for row in rows) == sorted([*LOSSES, *scaled])
    for row in rows:
        assert row.memory is not None
        timing = row.timing
        numbers = [timing.ratio, timing.low, timing.high, timing.seconds, timing.floor_seconds]
        assert all(math.isfinite(x) and x > 0 for x in numbers)
        assert row.memory.buffers > 0 < row.memory.floor_buffers
    subcentres = next(row for row in rows if row.name == "subcenter_arcface")
    assert subcentres.conditions["C"] == 3 * 50


def test_each_number_of_identities_is_measured_and_only_the_losses_asked_for():
    options = Options(repeats=3, identities=(20, 30), losses=("arcface", "triplet"))
    rows = list(heads.measure(options, batch=8, dim=4, embeddings=8))
    heads_of = ["arcface", *(f"arcface {way}" for way in heads.SCALED)]
    assert [(row.name, row.conditions.get("C")) for row in rows] == [
        *((name, 20) for name in heads_of), *((name, 30) for name in heads_of), ("triplet", None),
    ]  # fmt: skip


def test_a_head_too_large_for_the_naive_floor_is_measured_by_the_dense_one(monkeypatch, capsys):
    """As on a machine with little memory, at sizes that this one has."""
    monkeypatch.setattr(heads, "DENSE", 20)
    monkeypatch.setattr(heads, "free_bytes", lambda device: 1000)
    options = Options(repeats=3, identities=(30,), losses=("arcface",))
    rows = list(heads.measure(options, batch=8, dim=4))
    assert [row.name for row in rows] == [f"arcface {way}" for way in heads.SCALED]
    assert {row.floor for row in rows} == {"the same loss, dense, over 20 identities"}
    assert "no room for the naive floor" in capsys.readouterr().err


def test_the_memory_that_can_be_had_is_counted_in_bytes():
    free = free_bytes(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50


@pytest.mark.parametrize("name", heads.LEAN)
def test_the_lean_losses_hold_the_logits_and_at_most_one_buffer_more(name):
    options = Options(repeats=3, identities=(4000,), losses=(name,))
    row = next(heads.measure(options, batch=32, dim=16))
    assert row.memory is not None
    assert row.memory.aim == 2
    assert row.memory.buffers <= min(row.memory.aim, row.memory.floor_buffers)


@pytest.mark.parametrize("miner", ["all", "hard", "semihard"])
def test_no_miner_makes_a_cube_of_triplets(miner):
    """B^3 floats would be 256 buffers of B x B here."""
    batch = 256
    z = torch.randn(batch, 16, requires_grad=True)
    y = torch.arange(batch) // 4
    loss = build_loss("triplet", dim=16, identities=64, miner=miner)
    peak = peak_bytes(lambda: loss(z, y), [z])
    assert peak is not None
    assert 1 < peak / (4 * batch**2) < heads.PAIR_BUFFERS < batch / 4


def test_the_eer_is_measured_in_both_types_of_score():
    rows = list(eer.measure(SMALL, scores=1000))
    assert [row.name for row in rows] == ["float32", "float64"]
    assert all(row.aim == 3 for row in rows)


def test_a_training_step_is_measured_on_the_data_that_is_asked_for(faces):
    settings = (f"data.root={faces}", "data.pack=files", "engine.device=cpu", *TINY)
    (row,) = step.measure(Options(repeats=3, assignments=settings), steps=1)
    assert (row.name, row.images, row.conditions["batch"]) == ("test_resnet", 16, 16)
    assert row.aim == pytest.approx(1 / 0.95)


def test_an_epoch_is_loaded_from_each_place_where_images_may_lie(faces):
    settings = (f"data.root={faces}", *TINY)
    rows = list(load.measure(Options(repeats=3, assignments=settings)))
    assert [(row.name, row.images, row.aim) for row in rows] == [
        ("memmap", 64, 2.0), ("blob", 64, None), ("files", 64, None),
    ]  # fmt: skip


def test_a_submission_is_measured_whole(faces):
    settings = (f"data.root={faces}", "engine.device=cpu", *TINY)
    (row,) = submit.measure(Options(repeats=3, assignments=settings))
    assert (row.name, row.aim, row.conditions["pairs"]) == ("test_resnet", 1.05, 40)
    assert 2 <= row.images <= 80


def test_growth_is_measured_in_images_identities_and_pairs():
    rows = list(growth.measure(SMALL, images=200, identities=200, pairs=1000))
    assert [row.name.partition(":")[0] for row in rows] == ["images", "identities", "pairs"]
    assert {row.aim for row in rows} == {2.05}


def test_the_start_is_measured_in_seconds():
    (row,) = start.measure(SMALL)
    assert re.fullmatch(r"\d\.\d\d s \(below 0.5: (met|missed)\)", row.conditions["answer"])


def test_a_trace_names_the_parts_of_a_step_and_they_add_up_to_it(faces, tmp_path):
    settings = (f"data.root={faces}", "engine.device=cpu", "loss.name=arcface", *TINY)
    found = trace(Options(assignments=settings), tmp_path / "new" / "trace.json", steps=2)
    events = json.loads(found.file.read_text())["traceEvents"]
    steps = [event["dur"] for event in events if event.get("name") == "training step"]
    assert len(steps) == 2
    assert sum(found.milliseconds.values()) == pytest.approx(sum(steps) / 2000, rel=0.02)
    assert {"convolution", "normalisation", "optimiser", "head and loss"} <= set(found.milliseconds)
    largest = max(found.milliseconds, key=found.milliseconds.__getitem__)
    assert found.to_text().splitlines()[1].endswith(largest)


def test_a_save_holds_all_that_a_training_does_and_is_a_share_of_its_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = (*TINY, "loss.name=arcface", "optim.name=adamw", "engine.checkpoint_minutes=5")
    (row,) = save.measure(Options(repeats=3, identities=(5000,), assignments=settings))
    # Weights and two moments of 0.37 M + 5,000 x 16 parameters of 4 bytes.
    assert row.conditions["megabytes"] == 5
    assert re.fullmatch(r"\d\.\d\d% of 5 minutes \(below 1%: met\)", row.conditions["share"])
    assert list(tmp_path.iterdir()) == []


def test_a_search_is_measured_by_its_product_and_says_how_long_an_answer_takes():
    (row,) = identify.measure(SMALL, images=200, dim=8)
    assert re.fullmatch(r"\d+ ms a probe \(below 100: (met|missed)\)", row.conditions["answer"])
    assert row.conditions["images"] == 200


def test_drawn_faces_are_measured_in_images_a_second():
    settings = ("data.image_size=32", "data.workers=1")
    rows = list(synth.measure(Options(repeats=3, assignments=settings), images=20))
    assert [row.images for row in rows] == [20, 20]
    assert "images/s" in table(rows)


@pytest.fixture
def known_benches(monkeypatch) -> None:
    """Benches that know their figures."""
    met = Timing(0.5, 0.49, 0.51, 0.004, 0.008)
    open_ = Timing(0.79, 0.7, 0.9, 1.5, 2.0)

    def two(options: Options) -> Iterator[Row]:
        yield Row("heads", "arcface", "a floor", met, 0.8, {"B": 256, "C": 8631})
        yield Row("heads", "adaface", "a floor", open_, 0.8, {"B": 256, "C": 8631})

    def one(options: Options) -> Iterator[Row]:
        yield Row("eer", "float32", "a sort", met, conditions={"scores": options.repeats})

    monkeypatch.setitem(BENCHES, "heads", two)
    for name, bench in zip(sorted(set(BENCHES) - {"heads"}), cycle([one]), strict=False):
        monkeypatch.setitem(BENCHES, name, bench)


@pytest.mark.usefixtures("known_benches")
def test_all_benches_run_where_none_is_named_and_the_answer_is_table_and_json():
    answer = run([], SMALL)
    assert len(answer.rows) == 2 + len(BENCHES) - 1
    values = json.loads(json.dumps(answer.to_json(), allow_nan=False))
    arcface = next(row for row in values["rows"] if row["name"] == "arcface")
    assert arcface["timing"]["ratio"] == 0.5
    assert arcface["verdict"] == "met"
    text = run(["heads"], SMALL).to_text().splitlines()
    assert text[2] == "heads, against a floor"
    assert re.split("  +", text[5]) == [
        "adaface", "B 256, C 8,631", "2 s", "0.79 (0.70 to 0.90)", "at most 0.8: too close to call",
    ]  # fmt: skip


def test_an_unknown_bench_loss_or_setting_is_named_with_the_nearest_before_anything_runs():
    for names, options, said in (
        (["head"], SMALL, "bench: 'head' is unknown; nearest is heads"),
        ([], Options(losses=("arcfase",)), "--losses: 'arcfase' is unknown; nearest is arcface"),
        ([], Options(assignments=("engine.devise=cpu",)), "nearest is engine.device"),
    ):
        with pytest.raises(ConfigError, match=said):
            run(names, options)


def test_names_and_settings_may_stand_in_any_order_and_what_is_not_given_keeps_its_default():
    names, options = ask(["data.root=faces", "step", "eer"], losses="arcface, ce")
    assert names == ["step", "eer"]
    assert options == Options(assignments=("data.root=faces",), losses=("arcface", "ce"))
    assert ask([], repeats=7, identities=[10, 20]) == ([], Options(repeats=7, identities=(10, 20)))
