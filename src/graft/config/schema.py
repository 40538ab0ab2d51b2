"""Every knob of graft: its type, default, unit, range and meaning, in one place.

The YAML files under ``conf/`` hold choices; these dataclasses hold what a choice may be. Each field is made
by `knob`, whose metadata serves validation (`config/validate.py`) and the run key (`plan/spec.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from graft.config.knob import LARGEST_SEED, knob
from graft.config.names import AUTO_METRIC, BALANCES
from graft.config.running import (
    BundleConfig,
    CheckpointConfig,
    PathsConfig,
    ReuseConfig,
    SweepConfig,
    TrackingConfig,
)


@dataclass
class DataConfig:
    """Which images, which labels, and how they are divided."""

    name: str = knob(MISSING, "data set, a name of the catalog")
    root: str | None = knob(
        None,
        "folder that holds the images, by content in the key; torchvision sets: null = <paths.root>/data",
        keyed=False,
    )
    download: bool = knob(False, "torchvision sets: whether a missing one may be downloaded", keyed=False)
    image_size: int | None = knob(
        None, "side of the network's input; null = what the weights expect", unit="px", low=1, high=4096
    )
    resize: int | None = knob(
        None,
        "what the shorter side becomes before the central crop; null = in the weights' proportion, "
        "image_size = no crop",
        unit="px",
        low=1,
        high=4096,
    )
    mean: list[float] | None = knob(
        None, "channel means in [0, 1]; null = what the weights expect", low=0, high=1
    )
    std: list[float] | None = knob(
        None, "channel standard deviations in [0, 1]; null = what the weights expect", low=0, high=1
    )
    batch_size: int = knob(
        32, "images per optimizer step, over all devices and accumulation", unit="images", low=1
    )
    labels_per_class: int | None = knob(
        None, "k-shot: labelled training images per class; null = all", unit="images", low=1
    )
    val_labels_per_class: int | None = knob(
        None,
        "labelled validation images per class; null = in proportion to labels_per_class",
        unit="images",
        low=1,
    )
    label_fraction: float | None = knob(
        None,
        "share of the training and validation images of each class that are labelled; null = all",
        low=0,
        high=1,
    )
    test_size: float = knob(
        0.2,
        "test images carved out when there is no official test set: a fraction below 1, else a count",
        low=0,
    )
    val_size: float = knob(
        0.2, "validation images carved from training: a fraction below 1, else a count", low=0
    )
    split_seed: int = knob(0, "fixes the test set and the training pool", low=0, high=LARGEST_SEED)
    folds: int | None = knob(
        None, "cross-validation: parts, one of them held out as the test set; null = none", low=2
    )
    fold: int = knob(0, "cross-validation: which part is held out, from 0", low=0)
    fold_repeat: int = knob(0, "cross-validation: which drawing of the parts, from 0", low=0)
    split_file: str | None = knob(
        None, "split.json of an old run, replayed exactly; its content is keyed, not its path", keyed=False
    )
    table: str | None = knob(
        None,
        "table only: CSV or Parquet with the columns path, label and, if wanted, split, group, weight",
        keyed=False,
    )
    on_error: str = knob(
        "stop",
        "folder and table: stop at errors that `graft check` finds, skip the images that cause them, or "
        "quarantine-list = skip, and write their list beside the report",
        choices=("stop", "skip", "quarantine-list"),
        keyed=False,
    )
    balance: str = knob(
        "none",
        "against classes of unequal size: class_weights = loss weighted by inverse frequency, "
        "effective_number = more gently, sampler = every class drawn equally often",
        choices=BALANCES,
    )
    balance_beta: float = knob(
        0.999, "effective_number only: 0 = no weights, towards 1 = inverse frequency", low=0, high=0.999999
    )
    render_count: int = knob(20_000, "glyphs only: images to render", unit="images", low=62)
    render_seed: int = knob(0, "glyphs only: seed of the rendering", low=0, high=LARGEST_SEED)
    workers: int = knob(0, "processes that read batches; 0 = the training process itself", low=0, keyed=False)


@dataclass
class BackboneConfig:
    """The network up to pooled features, and where its weights come from."""

    name: str = knob(MISSING, "architecture, a name of the registry (`graft models`)")
    weights: str = knob(
        "none", "none, default, a torchvision weights name, a bundle name, or a path to a weights file"
    )
    allow_partial: bool = knob(False, "load weights that fit only partly; recorded")
    hidden_size: int = knob(128, "row_* backbones only: width of the hidden state", low=1)
    layers: int = knob(2, "row_* backbones only: stacked recurrent layers", low=1, high=16)


@dataclass
class HeadConfig:
    """What maps features to class scores."""

    name: str = knob("linear", "head, a name of the registry")
    init: str = knob(
        "new",
        "new = usual random start, zero = all zeros, from_weights = the weights' own",
        choices=("new", "zero", "from_weights"),
    )
    hidden: list[int] = knob([256], "mlp only: widths of the hidden layers", low=1)
    dropout: float = knob(0.0, "mlp only: probability of dropping a hidden unit", low=0, high=0.99)
    activation: str = knob("relu", "mlp only: activation between layers", choices=("relu", "gelu", "tanh"))
    strengths: list[float] = knob(
        [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0],
        "ridge only: penalties to choose from on validation, relative to the mean variance of the features",
        low=1e-12,
        high=1e12,
    )


@dataclass
class TransferConfig:
    """How the pretrained backbone is used."""

    method: str = knob(
        MISSING,
        "from_scratch, linear_probe, fine_tune or random_features",
        choices=("from_scratch", "linear_probe", "fine_tune", "random_features"),
    )
    freeze_depth: int = knob(
        0, "leading stages that are frozen: 0 = all train ... 5 = only the head trains", low=0, high=5
    )
    freeze_until: str | None = knob(
        None,
        "fine_tune only: freeze up to and with this node, finer than a depth; null = freeze_depth",
    )


@dataclass
class LossConfig:
    """What training minimises."""

    name: str = knob("cross_entropy", "loss, a name of the registry")
    label_smoothing: float = knob(
        0.0, "cross_entropy only: probability mass spread over all classes", low=0, high=0.99
    )
    class_weights: list[float] | None = knob(
        None, "weight of each class in the loss, in the order of class names; null = equal", low=0
    )
    focal_gamma: float = knob(2.0, "focal only: higher = harder images count more", low=0, high=10)


@dataclass
class OptimConfig:
    """Optimizer, schedule and penalties: one trial is one choice of all of these and the batch size."""

    name: str = knob("adamw", "optimizer", choices=("adamw", "adam", "sgd"))
    lr: float = knob(1e-3, "peak learning rate of the head", low=0, high=100)
    backbone_lr_multiplier: float = knob(
        1.0, "learning rate of the backbone, as a multiple of the head's", low=0, high=100
    )
    weight_decay: float = knob(0.01, "decoupled for adamw, L2 in the gradient otherwise", low=0, high=10)
    decay_norms_and_biases: bool = knob(False, "whether weight decay also pulls on norms and biases")
    momentum: float = knob(0.9, "sgd only", low=0, high=0.9999)
    nesterov: bool = knob(False, "sgd only")
    l1: float = knob(0.0, "L1 penalty on all trained parameters, added to the loss", low=0)
    l2: float = knob(0.0, "lambda/2 of the squared norm of all trained parameters, added to the loss", low=0)
    schedule: str = knob(
        "cosine",
        "how the rate moves over the run",
        choices=("constant", "cosine", "one_cycle", "step", "plateau"),
    )
    warmup: float = knob(
        0.0,
        "fraction of all steps in which the rate climbs to its peak (one_cycle: 0 means 0.3)",
        low=0,
        high=0.9,
    )
    step_every: float = knob(0.33, "step only: fraction of all steps between drops", low=0.001, high=1)
    decay_factor: float = knob(
        0.1, "step and plateau only: what the rate is multiplied with at a drop", low=0, high=1
    )
    plateau_checks: int = knob(5, "plateau only: validations without improvement before a drop", low=1)
    gradient_clip: float | None = knob(None, "largest norm of the gradient; null = no clipping", low=0)


@dataclass
class AugmentConfig:
    """Random changes of training images."""

    name: str = knob("none", "augmentation, a name of the registry")
    mixup: float = knob(
        0.0, "0 = off; both parameters of the Beta that says how two images are blended", low=0, high=10
    )
    cutmix: float = knob(
        0.0,
        "0 = off; the same for a box pasted from another image; with mixup: a coin per batch",
        low=0,
        high=10,
    )
    views: int | None = knob(
        None, "deterministic versions of each image, one per pass in turn; null = new ones always", low=1
    )


@dataclass
class TrainerConfig:
    """Training budget and hardware."""

    epochs: int = knob(10, "passes over the training images", low=1)
    min_steps: int = knob(
        0, "floor of optimizer steps, so that few images still train long enough", unit="steps", low=0
    )
    max_validations: int = knob(20, "validations spread evenly over a run, at most one per pass", low=1)
    patience: int | None = knob(
        None, "validations without improvement before stopping; null = never stop early", low=1
    )
    limit_batches: int | None = knob(
        None, "smoke only: optimizer steps, and batches of each evaluation", low=1
    )
    accumulate: int = knob(1, "micro-batches per optimizer step", low=1, keyed=False)
    precision: str = knob(
        "32",
        "arithmetic; auto = bf16-mixed where the backbone is measured to train faster with it here, else 32",
        choices=("32", "bf16-mixed", "16-mixed", "auto"),
    )
    channels_last: bool = knob(
        False, "whether convolutions see channels last in memory; often faster, moves the last digits"
    )
    compile: bool = knob(
        False, "whether torch.compile translates the network first; a minute or more, moves the last digits"
    )
    accelerator: str = knob("auto", "kind of device", choices=("auto", "cpu", "gpu"), keyed=False)
    devices: int = knob(1, "processes per node, one device each", low=1, keyed=False)
    num_nodes: int = knob(1, "machines", low=1, keyed=False)
    strategy: str = knob("auto", "how devices work together", choices=("auto", "ddp"), keyed=False)
    threads: int | None = knob(
        None, "CPU threads of torch in each process; null = an equal share of the cores", low=1, keyed=False
    )


@dataclass
class Config:
    """One run."""

    data: DataConfig = field(default_factory=DataConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    reuse: ReuseConfig = field(default_factory=ReuseConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    bundle: BundleConfig = field(default_factory=BundleConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    metric: str = knob(
        AUTO_METRIC,
        "validation metric that chooses the epoch and the trial; auto = accuracy, or balanced_accuracy where "
        "the largest class has more than three times the images of the smallest",
    )
    seed: int = knob(
        0,
        "draws the labelled images, the initialisation and the order of batches",
        low=0,
        high=LARGEST_SEED,
    )
