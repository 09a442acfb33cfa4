"""Several processes that train one encoder are one process with more hands (D1, D2, D4).

Processes are forked and speak over gloo on this machine.
"""

import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from group_helpers import begin, together
from process_helpers import outcome
from torch import nn
from torch.nn import functional

from facever import checkpoint, config, distributed
from facever.data.loader import Batch, epoch_batches
from facever.data.sampler import pk_batches, shuffled_batches
from facever.distributed import SynchronisedBatchNorm, gather, share, share_of
from facever.encoder import Encoder
from facever.engine import Interrupted, fit
from facever.errors import ConfigError, DataError
from facever.losses import build_loss
from facever.optim import WeightAverage, build_optimizer, parameter_groups
from facever.prepare import MANY, divides
from facever.state import TrainState
from facever.step import Recipe, train_step
from facever.transforms import EvalTransform

SIDE, IDENTITIES = 6, 5


# --- the parts --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_shares_are_a_partition_and_nearly_equal(count, processes):
    parts = [share_of(count, who, processes) for who in range(processes)]
    assert [i for part in parts for i in range(count)[part]] == list(range(count))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("size", [2, 3])
def test_gathered_rows_are_those_of_all_and_their_gradient_is_its_own(tmp_path, size):
    whole = torch.arange(14.0, dtype=torch.float64).reshape(7, 2).sin()

    def action():
        own = whole[share(7)].clone().requires_grad_()
        rows = gather(own, [len(whole[share_of(7, who, size)]) for who in range(size)])
        rows.pow(3).sum().backward()
        return rows.detach(), own.grad

    for who, (rows, gradient) in enumerate(together(size, tmp_path, action)):
        assert torch.equal(rows, whole)
        # W times the gradient, of which DistributedDataParallel takes the mean.
        expected = size * 3 * whole[share_of(7, who, size)].square()
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("shape", [(9, 3), (9, 3, 4, 5)])
def test_a_synchronised_batch_norm_is_the_batch_norm_of_all_images(tmp_path, shape):
    torch.manual_seed(0)
    images, pull = torch.randn(2, *shape, dtype=torch.float64)
    norm = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(3).double()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)

    def pass_through(x, against):
        out = norm(x)
        (out * against).sum().backward()
        return {
            "out": out.detach(), "input": x.grad, "weight": norm.weight.grad,
            "bias": norm.bias.grad, "mean": norm.running_mean, "var": norm.running_var,
        }  # fmt: skip

    def action():
        own = images[share(9)].clone().requires_grad_()
        with SynchronisedBatchNorm():
            return pass_through(own, pull[share(9)])

    found = together(2, tmp_path, action)
    expected = pass_through(images.clone().requires_grad_(), pull)
    for name in ("out", "input"):
        torch.testing.assert_close(torch.cat([f[name] for f in found]), expected[name])
    for name in ("weight", "bias"):
        torch.testing.assert_close(sum(f[name] for f in found), expected[name])
    for name in ("mean", "var"):
        for f in found:
            torch.testing.assert_close(f[name], expected[name])


def test_in_eval_mode_and_alone_a_batch_norm_stays_what_it_is(tmp_path):
    x = torch.randn(4, 3, 2, 2)
    norm = nn.BatchNorm2d(3).eval()
    expected = norm(x)
    with SynchronisedBatchNorm():
        assert torch.equal(norm(x), expected)
        assert torch.equal(functional.relu(x), x.clamp(min=0))


def test_what_the_leader_makes_or_raises_reaches_all(tmp_path):
    def action():
        made = distributed.from_leader(lambda: os.getpid())
        try:
            distributed.from_leader(lambda: (_ for _ in ()).throw(DataError("gone")))
        except DataError as error:
            return made, str(error), distributed.largest(distributed.rank() * 7)
        return None

    answers = together(3, tmp_path, action)
    assert len({answer[0] for answer in answers}) == 1
    assert {answer[1:] for answer in answers} == {("gone", 14)}


def test_who_waits_for_a_process_that_hangs_gives_up_with_a_message(tmp_path):
    def action():
        if distributed.rank() == 1:
            signal.pause()
        distributed.largest(1)

    waiting, hanging = begin(2, tmp_path, action, minutes=0.05)
    since = time.monotonic()
    assert outcome(waiting) == 1
    # The limit, and the start of two processes on a busy machine.
    assert time.monotonic() - since < 3 + 20
    os.kill(hanging, signal.SIGKILL)
    assert outcome(hanging) == -signal.SIGKILL
    message = (tmp_path / "0.error").read_text()
    assert "TrainingError: process 0 of 2: waited 0.05 min for another one, which hangs" in message


# --- training steps ---------------------------------------------------------------------------


def new_state(
    loss: str, params: dict[str, Any], *, norms: bool, sharded: bool, optimizer: str
) -> TrainState:
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(4) if norms else nn.Identity()
    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), norm, nn.ReLU(), nn.Flatten(), nn.Linear(16, 6)
    )
    transform = EvalTransform(SIDE)
    head = nn.BatchNorm1d(6) if norms else nn.Identity()
    encoder = Encoder(backbone, head, 6, transform).double()
    criterion = build_loss(loss, dim=6, identities=IDENTITIES, **params).double()
    criterion.expect_all()
    if sharded and distributed.world_size() > 1:
        criterion.shard()
    stepper = build_optimizer(optimizer, parameter_groups(encoder, criterion, lr=0.05))
    state = TrainState(encoder, criterion, stepper, network=distributed.wrap(encoder))
    state.average = WeightAverage(encoder, 0.9)
    return state


class Pictures:
    """Noise that is a function of the index."""

    labels = np.arange(34) % IDENTITIES

    def gather(self, indices):
        return np.stack([
            np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            for i in indices
        ]).reshape(-1, SIDE, SIDE, 3)  # fmt: skip


class InDouble(EvalTransform):
    def batch(self, images):
        return super().batch(images).double()


def steps(
    loss: str,
    accumulate: int = 1,
    *,
    poison: int | None = None,
    sharded: bool = False,
    optimizer: str = "sgd",
    saved: dict[str, Any] | None = None,
    epochs: int = 3,
    **params: Any,
) -> dict[str, Any]:
    """Epochs of three batches, of which the last takes in the tail, 14 images."""
    # What micro-batches hold depends on the processes, and batch norms would see it.
    state = new_state(loss, params, norms=accumulate == 1, sharded=sharded, optimizer=optimizer)
    if saved:
        state.load_state_dict(saved, "saved")
    state.encoder.transform = InDouble(SIDE)
    recipe = Recipe(
        epochs=3, device=torch.device("cpu"), precision="fp32", seed=3, images=34,
        accumulate=accumulate, synchronise_norms=True, clip_norm=0.3,
    )  # fmt: skip
    figures, seen = [], 0
    for epoch in range(state.epoch, epochs):
        plan = shuffled_batches(34, 10, seed=0, epoch=epoch, least=2 * 4)
        if state.loss.needs_pairs:
            plan = pk_batches(Pictures.labels, 3, 4, seed=0, epoch=epoch)
        state.position, state.epoch = 0, epoch
        for batch in epoch_batches(
            Pictures(), plan, None, seed=0, epoch=epoch,
            rank=distributed.rank(), processes=distributed.world_size(),
        ):  # fmt: skip
            if poison == distributed.rank() and state.position == 1:
                state.encoder.transform.__class__ = Broken
            found = train_step(state, recipe, batch, lambda step: 1.0)
            state.encoder.transform.__class__ = InDouble
            figures.append([found.get(key, float("nan")) for key in ("loss", "grad_norm")])
            seen += len(batch.images)
        state.epoch += 1
    return {
        "figures": torch.tensor(figures, dtype=torch.float64), "seen": seen,
        "weights": torch.cat([p.detach().flatten() for p in state.encoder.parameters()]),
        "average": state.average.encoder.state_dict(), "margin": dict(state.loss.named_buffers()),
        # All are to make it, and the leader's is whole.
        "saved": state.state_dict(),
    }  # fmt: skip


class Broken(InDouble):
    def batch(self, images):
        return super().batch(images) * float("inf")


def assert_alike(
    found: list[dict[str, Any]], alone: dict[str, Any], tolerance: float = 1e-9
) -> None:
    near = {"rtol": tolerance, "atol": tolerance}
    for each in found:
        for part in ("weights", "average", "margin"):
            torch.testing.assert_close(each[part], alone[part], **near)
        taken = each["figures"]
        torch.testing.assert_close(taken, alone["figures"][-len(taken) :], **near)
    for part in ("loss", "optimizer"):
        torch.testing.assert_close(found[0]["saved"][part], alone["saved"][part], **near)


@pytest.mark.parametrize(
    ("loss", "accumulate", "sizes"),
    [
        ("adaface", 1, (2, 4)),
        ("ce", 2, (2,)),
        ("curricularface", 1, (2,)),
        ("ce+0.5*triplet", 1, (3,)),
        ("elasticface", 1, (2,)),
    ],
)
def test_several_processes_take_the_steps_of_one(tmp_path, loss, accumulate, sizes):
    """By identities times images, where the loss compares them."""
    alone = steps(loss, accumulate)
    for size in sizes:
        found = together(size, tmp_path, lambda: steps(loss, accumulate))
        assert sum(each["seen"] for each in found) == alone["seen"]
        assert_alike(found, alone)


def test_the_images_that_a_loss_looks_at_are_those_of_all(tmp_path):
    alone = steps("adaface", proxy="image")
    assert_alike(together(2, tmp_path, lambda: steps("adaface", proxy="image")), alone)


@pytest.mark.parametrize(
    ("loss", "accumulate", "sizes"),
    [("adaface", 1, (2, 4)), ("ce", 2, (3,)), ("curricularface+0.5*triplet", 1, (2,))],
)
def test_with_divided_prototypes_they_do_so_too(tmp_path, loss, accumulate, sizes):
    """Gradients are clipped in every step: their norm counts each share of them once."""
    alone = steps(loss, accumulate, sharded=True)
    assert (alone["figures"][:, 1] > 0.3).all()
    for size in sizes:
        assert_alike(together(size, tmp_path, lambda: steps(loss, accumulate, sharded=True)), alone)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_divided_prototypes_go_on_under_any_number_of_processes(tmp_path, optimizer):
    """From one to four, and from four to two, with what the optimiser kept of each row."""
    given = {"loss": "arcface", "sharded": True, "optimizer": optimizer}
    alone = steps(**given)
    saved = steps(**given, epochs=1)["saved"]
    for size, epochs in ((4, 2), (2, 3)):
        goes_on = functools.partial(steps, **given, saved=saved, epochs=epochs)
        found = together(size, tmp_path, goes_on)
        saved = found[0]["saved"]
    # AdamW turns the rounding errors of gradients that are nearly zero into steps.
    assert_alike(found, alone, 1e-9 if optimizer == "sgd" else 1e-6)


def test_prototypes_are_divided_from_many_identities_on_or_where_that_is_asked_for(tmp_path):
    head, pairs = (build_loss(name, dim=2, identities=2) for name in ("ce", "triplet"))
    sections = {word: config.Loss(sharded=word) for word in ("auto", "on", "off")}

    def action():
        with pytest.raises(ConfigError, match="1 identities for 2 processes"):
            divides(sections["on"], head, 1)
        assert not divides(sections["on"], pairs, MANY)
        return [divides(section, head, n) for section in sections.values() for n in (2, MANY)]

    assert together(2, tmp_path, action) == [[False, True, True, True, False, False]] * 2
    assert not divides(sections["on"], head, MANY)
    assert f"{MANY:,} identities" in (config.Loss.model_fields["sharded"].description or "")


@pytest.mark.parametrize("sharded", [False, True])
def test_a_gradient_that_is_not_finite_on_one_process_is_skipped_by_all(tmp_path, sharded):
    found = together(2, tmp_path, lambda: steps("adaface", poison=1, sharded=sharded))
    for each in found:
        assert each["figures"].isnan().all(1).sum() == 3
        assert each["saved"]["step"] == 3 * 2
    assert torch.equal(found[0]["weights"], found[1]["weights"])
    assert found[0]["weights"].isfinite().all()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_share_whose_gradient_is_not_finite_stops_the_step_of_all(tmp_path, precision):
    """The others see it in the norm, and their loss scalers are told."""

    def action():
        state = new_state("arcface", {}, norms=False, sharded=True, optimizer="sgd")
        state.scaler = torch.amp.GradScaler("cpu", init_scale=8.0) if precision == "fp16" else None
        state.encoder.transform = InDouble(SIDE)
        recipe = Recipe(
            epochs=1, device=torch.device("cpu"), precision="fp32", seed=3, images=34,
        )  # fmt: skip
        before = [p.detach().clone() for p in (*state.encoder.parameters(), state.loss.prototypes)]
        if distributed.rank() == 1:
            state.loss.prototypes.register_hook(lambda gradient: gradient * float("inf"))
        images = Pictures().gather(range(34))[share(34)]
        batch = Batch(torch.from_numpy(images), torch.from_numpy(Pictures.labels), torch.arange(34))
        figures = train_step(state, recipe, batch, lambda step: 1.0)
        after = [*state.encoder.parameters(), state.loss.prototypes]
        still = all(map(torch.equal, before, after))
        return bool(figures), still, state.scaler.get_scale() if state.scaler else 4.0

    assert together(2, tmp_path, action) == [(False, True, 4.0)] * 2


def test_processes_that_do_not_wait_for_their_devices_stop_together(tmp_path):
    """They ask each other at the lines of the log alone; the signal reaches one of them."""

    def action():
        state = new_state("arcface", {}, norms=False, sharded=False, optimizer="sgd")
        state.encoder.transform = InDouble(SIDE)
        recipe = Recipe(
            epochs=1, device=torch.device("cpu"), precision="fp32", seed=3, images=34,
            log_every=2, pipelined=True,
        )  # fmt: skip
        plan = [np.arange(34)] * 5
        asked = []

        def stopped():
            asked.append(state.step)
            return signal.SIGTERM if distributed.rank() == 1 and state.step == 4 else None

        with pytest.raises(Interrupted):
            fit(
                state, recipe,
                batches=lambda epoch, position: epoch_batches(
                    Pictures(), plan, None, seed=0, epoch=epoch,
                    rank=distributed.rank(), processes=distributed.world_size(),
                ),
                schedule=lambda epochs: lambda step: 1.0, validate=lambda network: {},
                save=lambda state, best: state.state_dict(), log=lambda step, epoch, values: None,
                report=lambda done, total, text: None, paths=lambda indices: [], stopped=stopped,
            )  # fmt: skip
        return asked, state.step, state.position

    assert together(2, tmp_path, action) == [([2, 4], 4, 4)] * 2


# --- the command line -------------------------------------------------------------------------


def command(folder: Path, *arguments: str) -> Callable[[], int]:
    def run() -> int:
        from facever.cli import main

        os.chdir(folder)
        sys.argv = ["facever", *arguments]
        with (folder / f"said-{os.environ['RANK']}").open("w") as sys.stderr:
            sys.stdout = sys.stderr
            try:
                main()
            except SystemExit as leaving:
                return int(leaving.code or 0)
        return 0

    return run


def said(folder: Path, who: int = 0) -> str:
    return (folder / f"said-{who}").read_text()


GIVEN = ("optim.epochs=2", "engine.sync_batch_norm=true", "optim.ema=0.9", "--run", "r")
NO_AUGMENTATION = tuple(
    f"augment.{name}=0"
    for name in ("flip", "crop", "shift", "rescale", "photometric", "blur", "rotate", "erase")
)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_of_two_processes_is_one_run_like_that_of_one(facever, faces, tmp_path):
    given = ["train", f"data.root={faces}", *TINY, *GIVEN, *NO_AUGMENTATION]
    two = tmp_path / "two"
    two.mkdir()
    assert together(2, tmp_path, command(two, *given, "loss.sharded=on")) == [0, 0]
    assert facever(*given).code == 0
    run, alone = two / "checkpoints" / "r", tmp_path / "checkpoints" / "r"
    assert {path.name for path in run.iterdir()} == {path.name for path in alone.iterdir()}
    found, wanted = ([ln["loss"] for ln in lines(each) if "loss" in ln] for each in (run, alone))
    # Rounding in float32 grows from step to step.
    assert found[:2] == pytest.approx(wanted[:2], rel=1e-5)
    assert found == pytest.approx(wanted, rel=0.1)
    # The classifier was divided; what is on disk is whole, and the dev images were classified.
    saved, expected = (checkpoint.load(each / "last.pt") for each in (run, alone))
    assert saved["progress"]["seen"] == 2 * 64
    for part in ("loss", "optimizer"):
        torch.testing.assert_close(saved[part], expected[part], rtol=1, atol=1)
    assert saved["metrics"].keys() == expected["metrics"].keys() >= {"dev_accuracy_ce"}
    budgets = [json.loads((each / "environment.json").read_text()) for each in (run, alone)]
    assert budgets[0]["parameters"] == budgets[1]["parameters"]
    # One of them speaks.
    assert "best EER" in said(two)
    assert said(two, 1) == ""


def test_a_run_goes_on_under_another_number_of_processes(facever, faces, tmp_path):
    given = ["train", f"data.root={faces}", *TINY, *GIVEN]
    stopped = together(2, tmp_path, lambda: _interrupted(command(tmp_path, *given)))
    assert stopped == [143, 143]
    answer = facever(*given)
    assert answer.code == 0, answer.err
    assert "going on from step 3" in answer.err
    assert [ln["step"] for ln in lines(tmp_path / "checkpoints/r") if "loss" in ln] == [
        *range(1, 9)
    ]


def _interrupted(run: Callable[[], int]) -> int:
    """Send SIGTERM to one of the processes in its third step."""
    from facever import engine

    real = engine.train_step

    def step(state, *rest):
        figures = real(state, *rest)
        if state.step == 3 and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return figures

    engine.train_step = step
    return run()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "deed", "said"),
    [
        ("raises", "raise RuntimeError('a bug in one process')", "a bug in one process"),
        ("is killed", "os.kill(os.getpid(), 9)", "SIGKILL"),
        ("hangs", "__import__('time').sleep(600)", "waited 0.3 min for another one, which hangs"),
    ],
)
def test_when_one_process_fails_all_end(faces, tmp_path, fault, deed, said):
    """By torchrun itself, which watches them."""
    from subprocess import run

    script = tmp_path / "fail.py"
    script.write_text(
        "import os, sys\nfrom facever import engine\nreal = engine.train_step\n"
        "def step(state, *rest):\n"
        f"    if state.step == 2 and os.environ['RANK'] == '1': {deed}\n"
        "    return real(state, *rest)\n"
        "engine.train_step = step\nfrom facever.cli import main\nmain()\n"
    )
    found = run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script),
         "train", f"data.root={faces}", *TINY, "engine.timeout_minutes=0.3"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert found.returncode != 0
    assert said in found.stderr
