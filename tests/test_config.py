"""Layers, assignments, and every problem in one message (A7, A8 of reliability.md)."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from facever import config as module
from facever.config import Config, differences, flatten, known_keys, merge, nearest, resolve
from facever.errors import ConfigError
from facever.plainyaml import dump_yaml, load_yaml


def problems_of(*assignments: str, layers: Any = (), check: Any = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolve(layers, assignments, check=check)
    assert caught.value.exit_code == 2
    head, *lines = str(caught.value).split("\n  ")
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    assert head == f"configuration: {count}"
    return lines


def test_nothing_given_gives_the_defaults_and_they_cannot_be_changed() -> None:
    config = resolve([])
    assert config == Config()
    with pytest.raises(ValidationError):
        config.optim.__setattr__("lr", 1.0)


def test_each_layer_lies_over_the_one_before_and_assignments_over_all() -> None:
    parent = {"optim": {"lr": 0.1, "epochs": 1, "batch_size": 8}, "data": {"root": "parent"}}
    file = {"optim": {"lr": 0.2, "epochs": 2}}
    config = resolve([parent, file], ["optim.lr=0.3"])
    assert (config.optim.lr, config.optim.epochs, config.optim.batch_size) == (0.3, 2, 8)
    assert config.data.root == "parent"
    assert config.optim.momentum == Config().optim.momentum


rates = st.fixed_dictionaries({}, optional={k: st.floats(0.01, 0.9) for k in ("lr", "momentum")})


@given(st.lists(rates, max_size=4))
def test_of_every_key_the_last_layer_that_gives_it_wins(layers: list[dict[str, float]]) -> None:
    config = resolve([{"optim": layer} for layer in layers])
    for key in ("lr", "momentum"):
        given_values = [layer[key] for layer in layers if key in layer]
        default = getattr(Config().optim, key)
        assert getattr(config.optim, key) == (given_values[-1] if given_values else default)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(), max_size=3), max_size=3))
def test_merging_changes_no_layer(layers: list[dict[str, int]]) -> None:
    copies = [dict(layer) for layer in layers]
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = merge(merged, {"section": layer})
    assert layers == copies


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("data.root=0001", "0001"),
        ("data.root=no", "no"),
        ("data.root=a=b", "a=b"),
        ("data.root=", ""),
        ("data.workers=2", 2),
        ("data.workers=null", None),
        ("optim.lr=1e-3", 1e-3),
        ("optim.clip_norm=null", None),
        ("optim.milestones=[0.25, 5e-1]", (0.25, 0.5)),
        ("model.pretrained=no", False),
        ("model.pretrained=true", True),
        ("engine.max_time=480", 480.0),
        ("engine.max_time=1.5h", 90.0),
        ("engine.max_time=90 s", 1.5),
        ("engine.max_time=30min", 30.0),
        ("engine.max_time=null", None),
        ("data.pack=blob", "blob"),
        ("data.pack=on", "memmap"),
        ("data.pack=off", "files"),
        ("track.wandb=off", "off"),
        ("track.name=2024", "2024"),
        ("loss.params.m=1e-3", 1e-3),
        ("loss.params.s=64", 64),
        ("loss.params.ema_init=no", "no"),
        ("loss.params.triplet={m: 0.3}", {"m": 0.3}),
        ("loss.params.triplet.m=0.3", 0.3),
    ],
)
def test_a_value_given_as_text_gets_the_type_of_its_field(assignment: str, value: object) -> None:
    found: Any = resolve([], [assignment])
    for part in assignment.partition("=")[0].split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("optim.lrr=1", "optim.lrr: unknown key; nearest is optim.lr"),
        ("optimm.lr=1", "optimm: unknown key; nearest is optim"),
        ("model.backbon=x", "model.backbon: unknown key; nearest is model.backbone"),
        ("zzz.qqq=1", "zzz: unknown key"),
        ("optim.lr=fast", "optim.lr: 'fast' given; expected a valid number"),
        ("optim.epochs=2.5", "optim.epochs: '2.5' given; expected a valid integer"),
        ("optim.epochs=0", "optim.epochs: '0' given; expected greater than or equal to 1"),
        ("optim.lr=0", "optim.lr: '0' given; expected greater than 0"),
        ("optim.lr=nan", "optim.lr: 'nan' given; expected a finite number"),
        ("augment.flip=1.5", "augment.flip: '1.5' given; expected less than or equal to 1"),
        ("model.pretrained=maybe", "model.pretrained: 'maybe' given; expected a valid boolean"),
        ("engine.max_time=8 weeks", "engine.max_time: '8 weeks' given; expected a valid number"),
        ("engine.max_time=0h", "engine.max_time: 0.0 given; expected greater than 0"),
        ("optim.lr=null", "optim.lr: None given; expected a valid number"),
        ("optim.lr.x=1", "optim.lr: {'x': '1'} given; expected a valid number"),
        ("optim.lr", "'optim.lr': expected section.key=value, e.g. optim.lr=0.05"),
        ("lr=1", "'lr=1': expected section.key=value, e.g. optim.lr=0.05"),
        ("optim.=1", "'optim.=1': expected section.key=value, e.g. optim.lr=0.05"),
    ],
)
def test_a_wrong_assignment_is_named_with_what_was_expected(assignment: str, problem: str) -> None:
    assert problems_of(assignment) == [problem]


@pytest.mark.parametrize(
    ("given", "meant"), [(False, "off"), (True, "on"), ("off", "off"), ("graphs", "graphs")]
)
def test_yes_and_no_are_what_compile_was_before_it_had_words(given: object, meant: str) -> None:
    assert Config.model_validate({"engine": {"compile": given}}).engine.compile == meant


def test_a_compiled_encoder_cannot_synchronise_its_batch_norms() -> None:
    (problem,) = problems_of("engine.compile=on", "engine.sync_batch_norm=true")
    assert problem.startswith("engine.sync_batch_norm: 'true' given; expected false, or engine.com")


def test_a_wrong_choice_lists_the_choices() -> None:
    (problem,) = problems_of("optim.name=adm")
    assert problem == "optim.name: 'adm' given; expected 'sgd' or 'adamw'"


def test_all_that_is_wrong_is_said_at_once() -> None:
    lines = problems_of(
        "optim.lr=fast", "data.image_size=8", "lr=1", "loss.params.m=[", "optim.milestones=[1",
        layers=[{"trainer": {}, "model": {"backbone": 18}}],
        check=lambda loss: [f"loss {loss.name} is not to my taste"],
    )  # fmt: skip
    starts = ("optim.lr:", "data.image_size:", "'lr=1':", "loss.params.m:", "optim.milestones:",
              "trainer:", "model.backbone:", "loss ce ")  # fmt: skip
    assert len(lines) == len(starts)
    assert all(any(line.startswith(start) for line in lines) for start in starts)


def test_what_only_the_losses_know_is_asked_with_the_resolved_section() -> None:
    def check(loss: module.Loss) -> list[str]:
        return [f"{loss.name} {loss.params}"]

    given = ["loss.name=arcface", "loss.params.m=0.3"]
    assert problems_of(*given, check=check) == ["arcface {'m': 0.3}"]
    assert resolve([], given, check=lambda loss: []).loss.params == {"m": 0.3}


@pytest.mark.parametrize("layer", [{"optim": 3}, {"optim": None}, {"loss": [1]}, {"data": "x"}])
def test_a_section_that_is_no_mapping_is_refused(layer: dict[str, Any]) -> None:
    (problem,) = problems_of(layers=[layer])
    assert problem.endswith("given; expected a section of keys")


@pytest.mark.parametrize("key", ["optim.lr", "augment.flip", "engine.seed"])
def test_true_is_not_a_number(key: str) -> None:
    """`flip: true` would otherwise mirror every image instead of half of them."""
    section, knob = key.split(".")
    (problem,) = problems_of(layers=[{section: {knob: True}}])
    assert problem.startswith(f"{key}: True given; expected a valid")


def bounds() -> list[Any]:
    """List every bound of every knob: (key, the value at it, whether that is allowed, step)."""
    found = []
    for name in Config.model_fields:
        section = type(getattr(Config(), name))
        for knob, field in section.model_fields.items():
            for rule in field.metadata:
                for attribute, inside, step in (
                    ("ge", True, -1), ("gt", False, -1), ("le", True, 1), ("lt", False, 1),
                ):  # fmt: skip
                    if hasattr(rule, attribute):
                        at = getattr(rule, attribute)
                        found.append(pytest.param(f"{name}.{knob}", at, inside, step,
                                                  id=f"{name}.{knob}-{attribute}"))  # fmt: skip
    return found


@pytest.mark.parametrize(("key", "bound", "inside", "step"), bounds())
def test_a_bound_holds_exactly_where_it_is_said(
    key: str, bound: float, inside: bool, step: int
) -> None:
    (beyond,) = problems_of(f"{key}={bound + step}")
    assert beyond.startswith(f"{key}: ")
    if inside:
        resolve([], [f"{key}={bound}"])
    else:
        (at,) = problems_of(f"{key}={bound}")
        assert at.startswith(f"{key}: ")


def test_another_loss_drops_the_parameters_of_the_earlier_one() -> None:
    arcface = {"loss": {"name": "arcface", "params": {"m": 0.3}, "margin_warmup": 1.0}}
    assert resolve([arcface, {"loss": {"name": "arcface"}}]).loss.params == {"m": 0.3}
    other = resolve([arcface, {"loss": {"name": "adaface"}}]).loss
    assert (other.params, other.margin_warmup) == ({}, 1.0)
    assert resolve([arcface], ["loss.name=adaface", "loss.params.h=0.3"]).loss.params == {"h": 0.3}
    again = resolve([arcface, {"loss": {"params": {"s": 32.0}}}]).loss
    assert again.params == {"m": 0.3, "s": 32.0}


def test_parameters_without_a_name_are_those_of_the_default_loss() -> None:
    unnamed = {"loss": {"params": {"label_smoothing": 0.2}}}
    assert resolve([unnamed, {"loss": {"name": "ce"}}]).loss.params == {"label_smoothing": 0.2}
    assert resolve([unnamed, {"loss": {"name": "adaface"}}]).loss.params == {}
    assert resolve([unnamed], ["loss.name=adaface"]).loss.params == {}


@pytest.mark.parametrize("first", ["loss.name=arcface", "loss.params.m=0.3"])
def test_the_order_of_assignments_to_different_keys_does_not_matter(first: str) -> None:
    both = {"loss.name=arcface", "loss.params.m=0.3"}
    loss = resolve([], [first, *(both - {first})]).loss
    assert (loss.name, loss.params) == ("arcface", {"m": 0.3})


def test_a_later_assignment_to_the_same_key_wins() -> None:
    assert resolve([], ["optim.lr=0.1", "optim.lr=0.2"]).optim.lr == 0.2


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    config = resolve(
        [{"loss": {"name": "ce+0.5*triplet", "params": {"triplet": {"m": 0.3}}}}],
        ["data.root=0001", "optim.lr=1e-5", "track.name=null", "optim.milestones=[0.5]"],
    )
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(config.to_dict()))
    assert resolve([load_yaml(path)]) == config
    assert differences(load_yaml(path), config.to_dict()) == []


def test_differences_are_named_from_old_to_new() -> None:
    old, new = resolve([]).to_dict(), resolve([], ["optim.lr=0.2", "loss.params.m=0.4"]).to_dict()
    assert differences(old, new) == [
        "loss.params: {} -> (absent)",
        "loss.params.m: (absent) -> 0.4",
        "optim.lr: 0.1 -> 0.2",
    ]


def test_what_is_free_may_differ_and_nothing_beside_it() -> None:
    old = {"track": {"name": "a"}, "data": {"workers": 0, "workers_": 0, "root": "x"}}
    new = {"track": {"name": "b", "wandb": 1}, "data": {"workers": 8, "workers_": 1, "root": "x"}}
    assert differences(old, new, ("track", "data.workers")) == ["data.workers_: 0 -> 1"]


values = st.recursive(
    st.integers(0, 2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
).filter(lambda value: isinstance(value, dict))


@given(values, values)
def test_there_is_no_difference_just_where_the_flat_values_are_equal(old: Any, new: Any) -> None:
    assert (differences(old, new) == []) == (flatten(old) == flatten(new))
    assert len(differences(old, new)) == len(differences(new, old))


def test_what_the_commands_say_about_keys_names_keys_that_exist() -> None:
    keys = {*known_keys(), *Config.model_fields}
    assert set(module.FREE_AT_RESUME) <= keys
    assert set(module.INHERITED) <= keys
    assert resolve([module.FINETUNE]).optim.lr < Config().optim.lr
    assert "optim.lr" in keys
    assert len(known_keys()) == len(set(known_keys())) == len(flatten(Config().to_dict()))


def test_the_nearest_word_is_named_only_where_one_is_near() -> None:
    assert nearest("optim.lrr", ["optim.lr", "data.root"]) == "; nearest is optim.lr"
    assert nearest("zzz", ["optim.lr"]) == ""
