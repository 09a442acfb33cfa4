"""Every knob: its default, its bounds, its unit and what it does.

A loss's own hyper-parameters have their defaults in the loss's signature, not here.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    ValidationInfo,
    field_validator,
)

Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Values = dict[str, Any]

_MINUTES = {"s": 1 / 60, "m": 1.0, "min": 1.0, "h": 60.0, "d": 1440.0}


class Section(BaseModel):
    """A group of knobs: frozen, and refusing what it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `flip: true`, which would mirror every image: Python takes it for 1."""
        name = info.field_name or ""
        if isinstance(value, bool) and cls.model_fields[name].annotation is not bool:
            raise ValueError("expected a valid number or word, not true or false")
        return value


class Data(Section):
    """Where the images are and how they are read."""

    root: str = "data"
    """folder of the data set, or a manifest CSV"""
    layout: str = "auto"
    """layout of the folder; `auto` finds out"""
    competition: str = "auto"
    """whose profile: a term such as S26, or RFIW; `auto`: told by the data"""
    image_size: int = Field(112, ge=16, le=1024)
    """side of the square that the encoder sees, pixels"""
    pack: Literal["auto", "gpu", "memmap", "blob", "files"] = "auto"
    """images, once looked at, in GPU memory, a memory map, one file, or theirs; `auto`: by room"""
    workers: int | None = Field(None, ge=0, le=64)
    """loader processes; null: 0 when the CPU trains, else one a core up to 8"""
    identities: int | None = Field(None, ge=1)
    """keep the first so many identities; null: all"""
    split_seed: int = Field(0, ge=0, lt=2**31)
    """chooses held-out identities and pairs, where the data has no pair file"""
    on_error: Literal["stop", "skip"] = "stop"
    """a damaged image stops the run, or is left out and counted"""
    sampler: Literal["auto", "shuffle", "balanced", "pk"] = "auto"
    """order of images; `auto`: `pk` for pair losses, else `shuffle`"""
    k: int = Field(4, ge=1, le=64)
    """images of each identity in a `pk` batch, which has batch_size / k identities"""

    @field_validator("pack", mode="before")
    @classmethod
    def _former_names(cls, value: Any) -> Any:
        """Take what checkpoints hold that were made before there were four places."""
        return "memmap" if value == "on" else "files" if value == "off" else value


class Augment(Section):
    """Training augmentation: each operation's probability, its strength beside it."""

    backend: Literal["auto", "albumentations", "batch"] = "auto"
    """`albumentations`, or the same recipe on whole batches; `auto`: `batch` on a GPU"""
    flip: Probability = 0.5
    """mirror image"""
    crop: Probability = 0.2
    """keep a random region in place, blacken the rest (AdaFace)"""
    crop_scale: Share = 0.3
    """smallest share of the area kept"""
    shift: Probability = 0.5
    """translation"""
    shift_limit: float = Field(0.05, ge=0, le=0.5)
    """largest translation, share of the side"""
    rescale: Probability = 0.2
    """down to a low resolution and up again (AdaFace)"""
    rescale_to: Share = 0.25
    """smallest resolution, share of the side"""
    photometric: Probability = 0.3
    """jitter of brightness, contrast and saturation (AdaFace)"""
    photometric_strength: float = Field(0.4, ge=0, lt=1)
    """largest relative change"""
    blur: Probability = 0.05
    """Gaussian blur"""
    blur_sigma: float = Field(1.5, gt=0.1, le=20)
    """largest standard deviation, pixels"""
    rotate: Probability = 0.2
    """rotation about the centre"""
    rotate_degrees: float = Field(10.0, ge=0, le=180)
    """largest angle, degrees"""
    erase: Probability = 0.2
    """paint a random rectangle in one random colour"""
    erase_scale: float = Field(0.35, gt=0.05, le=1)
    """largest side of the rectangle, share of the image's"""


class Model(Section):
    """The encoder: backbone and embedding projection."""

    backbone: str = "resnet18"
    """one of facever's own, or any timm backbone that gives a feature map"""
    embedding_dim: int = Field(512, ge=2, le=8192)
    """dimension D of the embedding"""
    neck: Literal["bn-linear-bn", "bn-linear-shift", "gap-linear", "gdc"] = "bn-linear-bn"
    """feature map to embedding"""
    stem: Literal["default", "face"] = "default"
    """`face`: stride-1 first convolution, no early pooling; about 5 times the arithmetic"""
    pretrained: bool = False
    """start from timm's weights, where the competition allows it"""
    drop_rate: float = Field(0.0, ge=0, lt=1)
    """dropout before the embedding layer"""
    drop_path_rate: float = Field(0.0, ge=0, lt=1)
    """share of images that drop the last residual branch in training, less at lower depth"""
    squeeze_excitation: bool = False
    """channel gates in facever's own residual backbones; in some terms unclear if allowed"""
    checkpointing: bool = False
    """recompute activations in the backward pass: less memory, more time"""


class Loss(Section):
    """What is minimised."""

    name: str = "ce"
    """a loss, or a weighted sum of losses such as `ce+0.5*triplet`"""
    params: Values = Field(default_factory=dict)
    """hyper-parameters of the loss, by the names of its signature; of a sum, by loss"""
    label_smoothing: float | None = Field(None, ge=0, lt=1)
    """null: the loss's own default, 0.1 for `ce` and 0 for the others"""
    allow_smoothing: bool = False
    """permit label smoothing together with an angular margin"""
    margin_warmup: float = Field(0.0, ge=0)
    """epochs in which the margin grows from 0"""
    init: Literal["random", "means", "classifier"] = "random"
    """prototypes start at random, at the identities' mean embeddings, or as the parent's"""
    sharded: Literal["auto", "on", "off"] = "auto"
    """of several processes: each has its share of the prototypes; `auto`: from 50,000 identities"""


class Optim(Section):
    """The optimiser, its schedule, and what a step sees."""

    name: Literal["sgd", "adamw"] = "sgd"
    """`sgd` is with Nesterov momentum"""
    lr: float = Field(0.1, gt=0, le=100)
    """peak learning rate, for a step of `batch_size` images"""
    encoder_lr_scale: float = Field(1.0, ge=0, le=10)
    """the encoder's learning rate as a share of `lr`; the loss's own parameters use `lr`"""
    weight_decay: float = Field(5e-4, ge=0, le=10)
    """not applied to norms and biases"""
    momentum: float = Field(0.9, ge=0, lt=1)
    """of SGD; AdamW's first beta"""
    epochs: int = Field(16, ge=1)
    """passes over the training images"""
    warmup: float = Field(1.0, ge=0)
    """epochs in which the learning rate grows from 0"""
    schedule: Literal["cosine", "step", "plateau", "onecycle", "constant"] = "cosine"
    """course of the learning rate after the warm-up"""
    milestones: tuple[float, ...] = (0.5, 0.75, 0.9)
    """of `step`: drops, as shares of the run"""
    gamma: float = Field(0.1, gt=0, lt=1)
    """factor of each drop of `step` and `plateau`"""
    patience: int = Field(2, ge=0)
    """of `plateau`: validations without a better EER before a drop"""
    batch_size: int = Field(128, ge=2)
    """images a step"""
    accumulate: int = Field(1, ge=1)
    """cut each batch into so many micro-batches, for less memory"""
    clip_norm: float | None = Field(5.0, gt=0)
    """largest norm of the gradient; null: no clipping"""
    ema: float = Field(0.0, ge=0, lt=1)
    """weight averaging: decay a step, e.g. 0.999; 0: none"""


class Eval(Section):
    """Validation and inference."""

    flip: bool = True
    """average the embeddings of an image and of its mirror image"""
    every: int = Field(1, ge=1)
    """epochs between validations"""
    metric: Literal["eer", "auc", "combined"] = "eer"
    """what decides which epoch is best; `combined`: (dev accuracy + 1 - EER) / 2"""
    batch_size: int | None = Field(None, ge=1)
    """images embedded at once, fewer where they do not fit; null: 256, on a GPU 4,096"""
    bootstrap: int = Field(1000, ge=10)
    """resamples for the confidence interval of the EER"""
    crops: bool = False
    """`evaluate`, `submit`: average over crops at corners and centre too; 6 times the cost"""
    crop_scale: Share = 0.9
    """of `crops`: their side, share of the image's"""
    norm_power: float = Field(1.0, ge=0, le=8)
    """`evaluate`, `submit`: views of an image count by their norms to this power; 0: all alike"""
    centre: bool = False
    """`evaluate`, `submit`: subtract the mean embedding of the training identities"""
    as_norm: int = Field(0, ge=0)
    """`evaluate`, `submit`: adaptive s-norm by so many training identities, e.g. 200; 0: none"""
    calibrate: bool = False
    """`evaluate`, `submit`: log-odds of score, norms and sharpness, fitted on labelled pairs"""
    ensemble: Literal["score", "embedding"] = "score"
    """of several checkpoints: average their scores, or join their embeddings"""
    weights: tuple[PositiveFloat, ...] = ()
    """of several checkpoints: how much each counts; empty: all alike"""
    transductive: bool = False
    """`centre` and `as_norm` by the images that are scored instead of training identities"""


class Engine(Section):
    """How the arithmetic is carried out."""

    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto` is bf16 where the device has it, by a rule and never by a timing"""
    compile: Literal["off", "auto", "on", "graphs"] = "off"
    """torch.compile the encoder; `auto`: on a GPU, where it pays; `graphs`: with CUDA graphs"""
    channels_last: bool = True
    """memory layout of images and convolutions"""
    seed: int = Field(0, ge=0, lt=2**31)
    """weights, order of images, augmentation and dropout are functions of it"""
    deterministic: bool = False
    """only deterministic kernels on a GPU (a CPU's always are)"""
    sync_batch_norm: bool = False
    """of several processes: batch norms see the images of all"""
    timeout_minutes: float = Field(10.0, gt=0, le=1440)
    """of several processes: longest wait for another one, after which all end"""
    checkpoint_minutes: float = Field(10.0, gt=0)
    """longest time between two saves"""
    max_time: float | None = Field(None, gt=0)
    """wall-clock limit of the command, minutes or `8h`; a run that does not fit is shortened"""

    @field_validator("compile", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        """Take yes and no, which YAML has for on and off, and older runs for all there was."""
        return {"true": "on", "false": "off"}.get(str(value).lower(), value)

    @field_validator("sync_batch_norm")
    @classmethod
    def _uncompiled(cls, value: bool, info: ValidationInfo) -> bool:
        """Refuse what would silently have no effect: compiled code does not see the exchange."""
        if value and info.data.get("compile", "off") != "off":
            raise ValueError("expected false, or engine.compile=off, with which it goes together")
        return value

    @field_validator("max_time", mode="before")
    @classmethod
    def _minutes(cls, value: Any) -> Any:
        """Turn a number with a unit into minutes."""
        units = "|".join(_MINUTES)
        found = re.fullmatch(rf"(\d+(?:\.\d+)?) *({units})", str(value))
        return float(found[1]) * _MINUTES[found[2]] if found else value

    log_every: int = Field(20, ge=1)
    """steps between two lines of metrics.jsonl"""


class Track(Section):
    """Where figures go besides metrics.jsonl."""

    wandb: Literal["off", "offline", "online"] = "off"
    """Weights & Biases"""
    tensorboard: bool = False
    """event files in the run's folder; needs the extra `tensorboard`"""
    project: str = "facever"
    """project at W&B"""
    name: str | None = None
    """name of the W&B run; null: the run's own"""


class Config(Section):
    """All sections."""

    data: Data = Data()
    augment: Augment = Augment()
    model: Model = Model()
    loss: Loss = Loss()
    optim: Optim = Optim()
    eval: Eval = Eval()
    engine: Engine = Engine()
    track: Track = Track()

    def to_dict(self) -> Values:
        """Give all values as primitives, for YAML, JSON and checkpoints."""
        return self.model_dump(mode="json")


# Where `finetune` departs from the defaults above; the loss's own parameters by loss.
FINETUNE: Values = {
    "loss": {"init": "means"},
    "optim": {"lr": 0.02, "epochs": 6, "warmup": 0.5},
}
FINETUNE_LOSS_PARAMS: dict[str, Values] = {"adaface": {"ema_init": "data"}}


def finetune_params(name: str) -> Values:
    """Give the parameters that `finetune` has for a loss, or for each loss of a sum."""
    if "+" not in name and "*" not in name:
        return FINETUNE_LOSS_PARAMS.get(name, {})
    terms = [term.rpartition("*")[2].strip() for term in name.split("+")]
    return {term: FINETUNE_LOSS_PARAMS[term] for term in terms if term in FINETUNE_LOSS_PARAMS}


# What a checkpoint passes on to the commands that start from it.
INHERITED = ("data", "model", "augment", "eval")


def operations(augment: Augment) -> dict[str, float]:
    """Give the operations' probabilities and strengths, by whichever backend."""
    return augment.model_dump(exclude={"backend"})


# The keys of `eval` that change scores.
SWITCHES = (
    "flip", "crops", "crop_scale", "norm_power", "centre", "as_norm", "calibrate", "ensemble",
    "weights", "transductive",
)  # fmt: skip

# What may differ when a run is resumed, since the result does not depend on it.
FREE_AT_RESUME = (
    "data.workers", "data.pack", "data.competition", "track", "loss.sharded",
    "eval.batch_size",
    "engine.checkpoint_minutes", "engine.max_time", "engine.timeout_minutes",
    # A run validates by `flip` alone.
    *(f"eval.{name}" for name in SWITCHES if name != "flip"),
)  # fmt: skip
