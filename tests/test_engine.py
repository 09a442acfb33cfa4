"""The loop on a network of one layer: what a step changes, and what it must not."""

import copy
import itertools
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from facever.data.loader import Batch
from facever.deadline import Deadline
from facever.device import compile_encoder
from facever.encoder import Encoder
from facever.engine import PATIENCE, Interrupted, fit, stop_signals
from facever.errors import TrainingError
from facever.losses import build_loss
from facever.optim import Plateau, WeightAverage, build_optimizer, parameter_groups
from facever.state import TrainState
from facever.step import Recipe, train_step
from facever.transforms import EvalTransform

SIZE, IDENTITIES, IMAGES = 8, 4, 24
CPU = torch.device("cpu")


def new_state(*, loss="ce", average=False, dropout=0.0, seed=0, **params):
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(3 * SIZE * SIZE, 6))
    encoder = Encoder(backbone, nn.BatchNorm1d(6), 6, EvalTransform(SIZE))
    head = build_loss(loss, dim=6, identities=IDENTITIES, **params)
    groups = parameter_groups(encoder, head, lr=0.05)
    state = TrainState(encoder, head, build_optimizer("sgd", groups))
    if average:
        state.average = WeightAverage(encoder, 0.9)
    return state


def recipe(**changes):
    return Recipe(**{
        "epochs": 2, "device": CPU, "precision": "fp32", "seed": 3, "images": IMAGES, **changes
    })  # fmt: skip


def batch_of(indices):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IMAGES, SIZE, SIZE, 3), dtype=np.uint8)
    labels = np.arange(IMAGES) % IDENTITIES
    return Batch(
        torch.from_numpy(pixels[indices]),
        torch.from_numpy(labels[indices]),
        torch.tensor(indices),
    )


def batches(epoch, position):
    order = np.random.default_rng(epoch).permutation(IMAGES)
    yield from (batch_of(part) for part in np.split(order, 3)[position:])


def run(
    state, settings=None, *, save=None, eers=(20.0, 10.0), stopped=lambda: None, log=None,
    schedule=lambda epochs: lambda step: 1.0, deadline=None,
):  # fmt: skip
    figures = iter(eers)
    fit(
        state,
        settings or recipe(),
        batches=batches,
        schedule=schedule,
        validate=lambda network: {"EER": next(figures), "threshold": 0.1},
        save=save or (lambda state, best: None),
        log=log or (lambda step, epoch, values: None),
        report=lambda done, total, text="": None,
        paths=lambda indices: [f"{i}.jpg" for i in indices.tolist()],
        stopped=stopped,
        deadline=deadline,
    )
    return state


def weights(state):
    return torch.cat([p.detach().flatten() for p in state.encoder.parameters()])


def test_a_fit_lowers_the_loss_and_counts_its_steps():
    lines = []
    state = run(
        new_state(),
        recipe(epochs=6, log_every=1),
        eers=itertools.repeat(9.0),
        log=lambda step, epoch, values: lines.append((step, values)),
    )
    losses = [values["loss"] for _, values in lines if "loss" in values]
    assert (state.step, state.epoch, state.position) == (18, 6, 0)
    assert losses[-1] < losses[0]
    assert {"loss", "lr", "grad_norm", "images_per_s"} <= lines[0][1].keys()


@pytest.mark.parametrize("loss", ["ce", "adaface", "elasticface", "triplet"])
@pytest.mark.parametrize("stop_after", [1, 2, 3, 4])
@pytest.mark.parametrize("pipelined", [False, True])
def test_a_run_stopped_anywhere_goes_on_to_the_same_weights(loss, stop_after, pipelined):
    """Dropout and margins drawn per sample are functions of (seed, epoch, position)."""
    whole = run(new_state(loss=loss, average=True, dropout=0.3))
    settings = recipe(pipelined=pipelined)

    first, kept = new_state(loss=loss, average=True, dropout=0.3), {}
    calls = itertools.count(1)
    with pytest.raises(Interrupted) as stop:
        run(
            first,
            settings,
            save=lambda state, best: kept.update(copy.deepcopy(state.state_dict())),
            stopped=lambda: signal.SIGTERM if next(calls) == stop_after else None,
        )
    assert stop.value.exit_code == 143
    torch.manual_seed(99)
    second = new_state(loss=loss, average=True, dropout=0.3, seed=8)
    second.load_state_dict(kept, "kept")
    run(second, settings, eers=(20.0, 10.0)[second.epoch :])

    assert torch.equal(weights(second), weights(whole))
    for a, b in zip(second.loss.buffers(), whole.loss.buffers(), strict=True):
        assert torch.equal(a, b)
    averaged = [
        torch.cat([p.flatten() for p in s.average.encoder.parameters()]) for s in (second, whole)
    ]
    assert torch.equal(*averaged)
    assert second.best == whole.best


def test_the_best_epoch_is_the_first_with_the_lowest_eer():
    marks = []
    state = run(
        new_state(),
        recipe(epochs=4),
        eers=(9.0, 5.0, 5.0, 7.0),
        save=lambda state, best: marks.append(best),
    )
    assert marks == [True, True, False, False]
    assert state.best["EER"] == 5.0
    assert state.best["epoch"] == 2


def test_micro_batches_give_the_gradient_of_the_whole_batch():
    """Without batch norm, whose statistics are those of what it sees at once."""
    results = []
    for pieces in (1, 2, 4):
        state = new_state()
        state.encoder.projection = nn.Identity()
        train_step(state, recipe(accumulate=pieces), batch_of(np.arange(12)), lambda step: 1.0)
        results.append(weights(state))
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])


class Hungry(nn.Module):
    """Asks the system for more memory than the process may have, where it sees many images."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def forward(self, z):
        if self.training and len(z) > self.most:
            with address_space_left(100_000_000):
                torch.empty(1_000_000_000, dtype=torch.uint8)
        return z


@contextmanager
def address_space_left(limit):
    """Let this process have only so many bytes more, as a machine that is full would."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_out_of_memory_takes_the_same_images_in_smaller_pieces(capsys):
    """The gradient is that of the whole batch, and it is said what is not."""
    results = []
    for most in (99, 3):
        state = new_state()
        state.encoder.projection = nn.Identity()
        state.encoder.backbone = nn.Sequential(*state.encoder.backbone, Hungry(most))
        train_step(state, recipe(), batch_of(np.arange(12)), lambda step: 1.0)
        results.append((weights(state), state.pieces, state.step))
    torch.testing.assert_close(results[1][0], results[0][0])
    assert [pieces for _, pieces, _ in results] == [1, 4]
    assert [step for _, _, step in results] == [1, 1]
    said = capsys.readouterr().err
    assert "out of memory; from here on 6 images at once" in said
    assert "out of memory; from here on 3 images at once" in said


def test_what_smaller_pieces_change_is_said(capsys):
    state = new_state(loss="triplet")
    state.encoder.backbone = nn.Sequential(*state.encoder.backbone, Hungry(6))
    train_step(state, recipe(), batch_of(np.arange(12)), lambda step: 1.0)
    said = capsys.readouterr().err
    assert "batch norm now has the statistics of 6 images" in said
    assert "Triplet now finds its pairs among 6 images" in said


def test_the_failed_pass_leaves_no_trace_in_what_it_had_changed(capsys):
    """AdaFace's averages and batch norm's statistics move once per piece that went through."""
    halved, cut = new_state(loss="adaface"), new_state(loss="adaface")
    halved.encoder.projection = nn.Sequential(halved.encoder.projection, Hungry(6))
    train_step(halved, recipe(), batch_of(np.arange(12)), lambda step: 1.0)
    train_step(cut, recipe(accumulate=2), batch_of(np.arange(12)), lambda step: 1.0)
    assert torch.equal(weights(halved), weights(cut))
    for a, b in zip(halved.encoder.buffers(), cut.encoder.buffers(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(halved.loss.buffers(), cut.loss.buffers(), strict=True):
        assert torch.equal(a, b)


def test_memory_that_does_not_suffice_for_two_images_ends_the_run():
    state = new_state()
    state.encoder.backbone = nn.Sequential(*state.encoder.backbone, Hungry(1))
    with pytest.raises(TrainingError, match=r"out of memory with 2 images at once: .*allocat"):
        train_step(state, recipe(), batch_of(np.arange(12)), lambda step: 1.0)
    assert state.step == 0


class Poison(nn.Module):
    """Turns embeddings into NaN for some images, as an overflow would."""

    def __init__(self):
        super().__init__()
        self.on = True

    def forward(self, z):
        return z * float("nan") if self.on else z


def test_a_step_that_is_not_finite_changes_nothing_but_its_position():
    state = new_state(loss="adaface", average=True)
    poison = Poison()
    state.encoder.backbone = nn.Sequential(*state.encoder.backbone, poison)
    before = copy.deepcopy(state.state_dict())
    figures = train_step(state, recipe(), batch_of(np.arange(8)), lambda step: 1.0)
    after = state.state_dict()
    assert figures == {}
    assert after["sampler"]["position"] == 1
    assert after["step"] == 0
    for part in ("encoder", "loss"):
        for key, value in before[part].items():
            assert torch.equal(value, after[part][key]), key
    for key, value in before["ema"]["encoder"].items():
        assert torch.equal(value, after["ema"]["encoder"][key]), key


def test_ten_such_steps_in_a_row_stop_the_run_and_name_the_images():
    state = new_state()
    state.encoder.backbone = nn.Sequential(*state.encoder.backbone, Poison())
    with pytest.raises(TrainingError, match=r"10 steps in a row.*\n.*\d+\.jpg"):
        run(state, recipe(epochs=9), eers=itertools.repeat(5.0))
    assert state.skipped == PATIENCE


def test_a_finite_step_forgives_the_ones_before():
    state, poison = new_state(), Poison()
    state.encoder.backbone = nn.Sequential(*state.encoder.backbone, poison)

    def flicker(epoch, position):
        for i, batch in enumerate(batches(epoch, position)):
            poison.on = i != 1
            yield batch

    fit(
        state, recipe(epochs=8), batches=flicker, schedule=lambda epochs: lambda step: 1.0,
        validate=lambda network: {"EER": 5.0}, save=lambda state, best: None,
        log=lambda step, epoch, values: None, report=lambda done, total, text="": None,
        paths=lambda indices: [], stopped=lambda: None,
    )  # fmt: skip
    assert state.step == 8
    assert state.skipped_in_all == 16


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("poisoned", [{0}, {1, 2}, {4, 7, 8}])
def test_steps_that_are_counted_late_take_the_same_course(optimizer, poisoned):
    """The rate, the margin and the averages of a step rest on how many before it were finite."""
    states, lines = [], []
    for pipelined in (False, True):
        state, poison, steps = new_state(loss="adaface", average=True), Poison(), itertools.count()
        state.encoder.backbone = nn.Sequential(*state.encoder.backbone, poison)
        groups = parameter_groups(state.encoder, state.loss, lr=0.05)
        state.optimizer = build_optimizer(optimizer, groups)
        found = []

        def flicker(epoch, position, poison=poison, steps=steps):
            for batch in batches(epoch, position):
                poison.on = next(steps) in poisoned
                yield batch

        fit(
            state, recipe(epochs=4, margin_steps=6, log_every=4, pipelined=pipelined),
            batches=flicker, schedule=lambda epochs: lambda step: 1 / (1 + step),
            validate=lambda network: {"EER": 5.0}, save=lambda state, best: None,
            log=lambda step, epoch, values, found=found: found.append((step, values.get("loss"))),
            report=lambda done, total, text="": None, paths=lambda indices: [],
            stopped=lambda: None,
        )  # fmt: skip
        states.append(state.state_dict())
        lines.append(found)
    assert lines[0] == lines[1]
    late, early = flat(states[1]), flat(states[0])
    assert early["step"] == 12 - len(poisoned)
    assert early["progress.skipped_in_all"] == len(poisoned)
    assert late.keys() == early.keys()
    for key, value in early.items():
        same = (
            torch.equal(value, late[key]) if isinstance(value, torch.Tensor) else value == late[key]
        )
        assert same, key


def flat(values, name=""):
    """Give nested dictionaries and lists as one dictionary of leaves."""
    if not isinstance(values, dict | list):
        return {name[1:]: values}
    pairs = values.items() if isinstance(values, dict) else enumerate(values)
    return {k: v for key, value in pairs for k, v in flat(value, f"{name}.{key}").items()}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_encoder_takes_the_same_course_and_is_saved_under_the_same_names():
    plain, compiled = (new_state(loss="arcface", average=True) for _ in range(2))
    compile_encoder(compiled.encoder, "on", CPU)
    run(plain, recipe(epochs=3), eers=itertools.repeat(5.0))
    run(compiled, recipe(epochs=3), eers=itertools.repeat(5.0))
    found, expected = compiled.state_dict(), plain.state_dict()
    assert found["encoder"].keys() == expected["encoder"].keys()
    for part in ("encoder", "loss", "ema", "optimizer"):
        torch.testing.assert_close(found[part], expected[part], rtol=1e-3, atol=1e-4)


def test_the_gradient_is_clipped_to_the_limit():
    state = new_state()
    old = weights(state)
    figures = train_step(state, recipe(clip_norm=1e-3), batch_of(np.arange(8)), lambda step: 1.0)
    assert figures["grad_norm"] > 1e-3
    # Nesterov's first step is lr (1 + momentum) times the gradient.
    assert (weights(state) - old).norm() <= 0.05 * 1.9 * 1e-3 * 1.01


def test_the_margin_grows_over_its_warm_up():
    state, seen = new_state(loss="arcface"), []
    state.loss.set_margin = seen.append
    run(state, recipe(margin_steps=4))
    assert seen == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_a_plateau_lowers_the_learning_rate_when_eer_stops_falling():
    state, rates = new_state(), []
    state.plateau = Plateau(patience=0, gamma=0.1)
    run(
        state,
        recipe(epochs=4, log_every=3),
        eers=(9.0, 9.0, 9.0, 9.0),
        log=lambda step, epoch, values: rates.append(values["lr"]) if "lr" in values else None,
    )
    np.testing.assert_allclose(rates, [0.05, 0.05, 0.005, 0.0005])


def test_the_averaged_network_is_what_validation_sees():
    state, seen = new_state(average=True), []
    fit(
        state, recipe(epochs=1), batches=batches, schedule=lambda epochs: lambda step: 1.0,
        validate=lambda network: seen.append(network) or {"EER": 1.0},
        save=lambda state, best: None, log=lambda step, epoch, values: None,
        report=lambda done, total, text="": None, paths=lambda indices: [], stopped=lambda: None,
    )  # fmt: skip
    assert seen == [state.average.encoder]


class Clock:
    """Time of which a second passes at each look."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def linear(epochs):
    return lambda step: 1 - step / (3 * epochs)


def test_a_run_that_does_not_end_in_time_is_shortened_with_the_course_of_its_learning_rate(capsys):
    """Three steps are three looks at the clock, and the end of the first epoch is one more."""
    rates, saved = [], []
    deadline = Deadline(20.0, age=0.0, clock=Clock())
    state = run(
        new_state(), recipe(epochs=9, log_every=1), eers=itertools.repeat(9.0), schedule=linear,
        deadline=deadline, save=lambda state, best: saved.append(state.state_dict()["progress"]),
        log=lambda step, epoch, values: rates.append(values["lr"]) if "lr" in values else None,
    )  # fmt: skip
    assert "9 epochs would not end in time; shortened to 4" in capsys.readouterr().err
    assert state.epoch == 4
    assert [progress["epochs"] for progress in saved] == [4] * 4
    np.testing.assert_allclose(rates[:3], [0.05 * linear(9)(step) for step in range(3)])
    np.testing.assert_allclose(rates[3:], [0.05 * linear(4)(step) for step in range(3, 12)])


def test_a_shortened_run_goes_on_to_the_same_weights_whatever_the_time(capsys):
    whole, kept = new_state(), {}
    eers = itertools.repeat(9.0)
    run(
        whole, recipe(epochs=9), eers=eers, schedule=linear,
        deadline=Deadline(20.0, age=0.0, clock=Clock()),
        save=lambda state, best: kept.setdefault(state.epoch, copy.deepcopy(state.state_dict())),
    )  # fmt: skip
    for limit in (None, 20.0, 1000.0):
        second = new_state(seed=8)
        second.load_state_dict(copy.deepcopy(kept[2]), "kept")
        run(second, recipe(epochs=9), eers=eers, schedule=linear,
            deadline=Deadline(limit, age=0.0, clock=Clock()))  # fmt: skip
        assert second.epoch == 4
        assert torch.equal(weights(second), weights(whole))


def test_a_limit_without_room_for_two_epochs_stops_the_run_in_time_and_leaves_it_whole():
    saved = []
    state, clock = new_state(), Clock()
    with pytest.raises(Interrupted, match=r"unfinished when engine\.max_time was over") as stop:
        run(state, recipe(epochs=9), eers=itertools.repeat(9.0),
            deadline=Deadline(8.0, age=0.0, clock=clock),
            save=lambda state, best: saved.append(state.step))  # fmt: skip
    assert stop.value.exit_code == 0
    assert saved[-1] == state.step > 3
    assert clock.now < 8
    assert state.epochs == 0


def test_the_time_for_a_save_and_the_longest_pause_are_left_before_the_limit():
    times = iter([0.0, 1.0, 8.0, 9.0, 20.0, 28.0])
    deadline = Deadline(60.0, age=10.0, saving=lambda: 8.0, clock=lambda: next(times))
    # At 20 it is 20 + 11 + 2 x 8 of 50 seconds, at 28 it is 55.
    assert [deadline.passed() for _ in range(5)] == [False, False, False, False, True]
    assert not Deadline().passed()
    assert Deadline().epochs(1.0) is None


def test_the_age_of_a_process_is_the_time_since_it_began():
    began = time.monotonic()
    answer = subprocess.run(
        [sys.executable, "-c",
         "import time; time.sleep(0.3); from facever.deadline import process_age as a; print(a())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert 0.3 <= float(answer.stdout) <= time.monotonic() - began + 0.02


def send_twice():
    with stop_signals() as stopped:
        assert stopped() is None
        signal.raise_signal(signal.SIGINT)
        assert stopped() == signal.SIGINT
        signal.raise_signal(signal.SIGINT)


def test_the_first_signal_is_remembered_and_the_second_acts_at_once():
    # A shell starts background jobs, and so perhaps this test, with SIGINT ignored.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            send_twice()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, inherited)


def test_a_signal_during_the_last_validation_is_not_forgotten():
    """A comparison would begin its next training, and a Ctrl-C would have stopped nothing."""
    saved = []
    with pytest.raises(Interrupted) as caught, stop_signals() as stopped:
        fit(
            new_state(), recipe(epochs=1), batches=batches,
            schedule=lambda epochs: lambda step: 1.0,
            validate=lambda network: signal.raise_signal(signal.SIGTERM) or {"EER": 5.0},
            save=lambda state, best: saved.append(state.epoch), stopped=stopped,
            log=lambda step, epoch, values: None, report=lambda done, total, text="": None,
            paths=lambda indices: [],
        )  # fmt: skip
    assert (saved, caught.value.exit_code) == ([1], 143)


def test_bf16_stays_close_to_float32_and_the_loss_is_computed_in_float32():
    values = []
    for precision in ("fp32", "bf16"):
        state = new_state(loss="arcface")
        values.append(
            train_step(state, recipe(precision=precision), batch_of(np.arange(12)), lambda s: 1.0)
        )
    assert values[1]["loss"] == pytest.approx(values[0]["loss"], rel=0.05)
