"""What a training run goes by: every field, its meaning and its range; needs no torch.

A run has three sources: these fields, `Settings` (base model, device, judge), and nothing else. Defaults marked *ours* are choices: the
value of the Stable-Layers paper (arXiv 2605.30257) could not be read. Names follow Flow-GRPO (arXiv 2505.05470).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from layerctl.settings import FEWEST_LAYERS, MOST_LAYERS
from layerctl.values import Value, choice, name, number, optional, text, url, whole, yes_or_no

Method = Literal["grpo", "sft"]
Kernel = Literal["flow", "dance", "cps"]
Ratio = Literal["plain", "norm", "free", "frames"]
WindowMode = Literal["fixed", "random", "sliding"]
PromptMode = Literal["fixed", "caption", "empty", "given"]

TARGETS = (
    "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
    "img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2",
)  # fmt: skip
"""The linear layers of a block that an adapter can sit on."""

CLIPS: dict[Ratio, float] = {"plain": 1e-4, "norm": 2e-6, "free": 5e-4, "frames": 5e-4}
"""Half the width of the clipped range by form of the ratio: Flow-GRPO's, GRPO-Guard's (2e-6 at 65 536 dimensions), and what the latter is
once it is free of the dimension, 2e-6 * sqrt(65 536)."""


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Resolved and checked."""

    method: Method = "grpo"
    """"grpo": from pictures, scored by a judge. "sft": from layered files, by flow matching."""

    updates: int = 200
    """Training steps in all, each one of sampling, scoring and learning."""

    seed: int = 0
    """Of everything that is drawn in training: pictures, noise, windows, layer counts, the adapter's start."""

    start: str | None = None
    """The adapter that training starts from and is held close to: a Hub id, a folder or a file. Default: none, the base itself."""

    limit: int | None = None
    """Take at most so many pictures of the data."""

    holdout: int = 8
    """How many pictures of the data are kept for evaluation and never trained on, 0 to 1000, when there is no data of its own for it."""

    layers: tuple[int, int] = (4, 4)
    """The least and the most layers that are asked for; each group draws one number between."""

    prompt_mode: PromptMode = "fixed"
    """What the model is told: one prompt for all, a caption of each picture, nothing, or what lies beside each picture."""

    groups: int = 8
    """Pictures a step (*ours*), 1 to 1024; a multiple of the processes."""

    group: int = 8
    """Candidates a picture (*ours*), 3 to 64."""

    micro_batch: int = 1
    """Candidates that go through the model at a time, in sampling and in learning alike."""

    rollout_steps: int = 10
    """Steps of the sampler that makes candidates (*ours*), 2 to 100; evaluation has its own."""

    kernel: Kernel = "flow"
    """How noise enters a step: Flow-GRPO's SDE, DanceGRPO's, or coefficients-preserving sampling (Flow-CPS)."""

    eta: float = 0.7
    """The kernel's level of noise: 0.7 for flow, 0.3 for dance, 0.8 for cps."""

    window: int = 2
    """How many steps of a rollout are noisy and learned from (*ours*), 1 to 100."""

    window_mode: WindowMode = "random"
    """Where the window begins: always at window_first, drawn for each step, or sliding from window_first to window_last."""

    window_first: int = 1
    """The first step that a window may begin at, from 0 (*ours*: 1, since noise in the very first is huge)."""

    window_last: int = 3
    """The last step that a window may begin at (*ours*: within the first half)."""

    window_every: int = 10
    """A sliding window moves on by one step every so many training steps; behind the last place it begins anew."""

    shared_start: bool = False
    """Begin all candidates of a picture from the same noise, so that they differ by the window's noise alone (*ours*: no, as Flow-GRPO)."""

    ratio: Ratio = "free"
    """The form of the policy ratio: plain, RatioNorm (GRPO-Guard), RatioNorm free of the dimension, and that by frame (*ours*: free)."""

    clip: float | None = None
    """Half the width of the clipped range. Default: by form, see CLIPS."""

    reweight_dt: bool = False
    """Divide the loss of a step by its |dt|, as GRPO-Guard does (*ours*: no)."""

    advantage: Literal["group", "batch", "none"] = "group"
    """What the distance from the group's mean is divided by: the group's deviation, that of all of the step, or nothing."""

    advantage_floor: float = 0.1
    """The least deviation that is divided by, in points of the reward (*ours*)."""

    advantage_clip: float = 5.0
    """The largest advantage, up or down (*ours*)."""

    kl: float = 4e-4
    """Weight of the squared distance from the start's velocity (*ours*); 0 leaves it out and saves an evaluation."""

    optimizer_steps: int = 1
    """Optimizer steps on one batch of rollouts, each with a part of its groups, 1 to 64."""

    rank: int = 64
    """Rank of the adapter (*ours*)."""

    alpha: float = 128.0
    """Its scale is alpha / rank (*ours*)."""

    targets: tuple[str, ...] = TARGETS
    """The linear layers of each block that it sits on (*ours*: all of attention and MLP); those that get no gradient are left out."""

    learning_rate: float = 1e-4
    """Of AdamW (*ours*)."""

    warmup: int = 0
    """Steps over which the learning rate rises from nothing (*ours*)."""

    weight_decay: float = 1e-4
    """Of AdamW (*ours*)."""

    adam_epsilon: float = 1e-10
    """Of AdamW (*ours*): gradients of normalised ratios are small, and 1e-8 would hide them."""

    gradient_clip: float = 1.0
    """The largest norm of a gradient (*ours*)."""

    ema_decay: float = 0.9
    """Of the average of the adapter's weights (*ours*), 0 to 1; 0 is no average."""

    ema_every: int = 8
    """The average takes in every so many steps (*ours*)."""

    checkpointing: bool = True
    """Compute activations twice instead of keeping them."""

    deterministic: bool = True
    """Take the device's repeatable algorithms, so that a resumed run equals one that went through (*ours*); slower on some devices."""

    shard: bool = False
    """Spread the frozen base over all processes (FSDP2), for GPUs that it does not fit."""

    guard_blank: float = 2.0
    """Points off for each blank layer (*ours*)."""

    guard_copy: float = 3.0
    """Points off for a layer that shows the whole picture once more (*ours*)."""

    guard_duplicate: float = 2.0
    """Points off for two layers that show the same (*ours*)."""

    guard_recomposition: float = 10.0
    """Points off for a flattened stack that differs from the picture, times the mean difference, 0 to 1 (*ours*)."""

    guard_texture: float = 3.0
    """Points off for a regular texture that the picture does not have, times its strength, 0 to 1 (*ours*)."""

    abort_invalid: float = 0.1
    """Stop when more than this share of a step's candidates has no score."""

    abort_gradient: float = 100.0
    """Stop when the gradient's norm is more than so many times its median over the last 20 steps, or is no number."""

    abort_quiet: int = 20
    """Stop when so many steps in a row taught nothing."""

    abort_ratio: float = 1e-6
    """Stop when the first replay's log ratio is further from 0 than this."""

    sft_batch: int = 8
    """Layered pictures a step with method sft (*ours*)."""

    sft_shift: float = 0.5
    """The mean of the logit-normal distribution of sigma with method sft (*ours*)."""

    evaluate_every: int = 25
    """Evaluate before the first step, then every so many, and at the end; 0 never."""

    evaluation_judge: str | None = None
    """A judge that scores evaluations alone, never a reward: pixels, openai or a plugin's. Default: measures of pixels, no judge."""

    evaluation_judge_url: str | None = None
    """Where that judge listens. Default: judge_url, which gives no second opinion."""

    evaluation_judge_model: str | None = None
    """Its model. Default: judge_model."""

    save_every: int = 10
    """Save everything every so many steps, and at the end."""

    keep: int = 3
    """How many of the latest checkpoints are kept, besides the best."""

    track: Literal["none", "trackio", "tensorboard"] = "none"
    """Where the metrics go, besides metrics.jsonl."""


def _layers(value: object) -> tuple[int, int]:
    """4, "4", "2-6" or [2, 6]."""
    parts = value.split("-") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    one = whole(FEWEST_LAYERS, MOST_LAYERS, such_as=4)
    found = [one.read(part) for part in parts]
    if len(found) not in (1, 2) or found[0] > found[-1]:
        raise ValueError("neither a number nor a range")
    return found[0], found[-1]


def _targets(value: object) -> tuple[str, ...]:
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not listed:
        raise ValueError("not a list of layers")
    unknown = [each for each in listed if each not in TARGETS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is none of {', '.join(TARGETS)}")
    return tuple(dict.fromkeys(listed))


TRAINING_VALUES: dict[str, Value] = {
    "method": choice("grpo", "sft"),
    "updates": whole(1, such_as=200),
    "seed": whole(0, 2**53, such_as=0),
    "start": optional(Value(text, "give an adapter, such as StabilityLabs/Stable-Layers")),
    "limit": optional(whole(1, such_as=1000)),
    "holdout": whole(0, 1000, such_as=8),
    "layers": Value(_layers, f"give a number or a range within {FEWEST_LAYERS} to {MOST_LAYERS}, such as 4 or 2-6"),
    "prompt_mode": choice("fixed", "caption", "empty", "given"),
    "groups": whole(1, 1024, such_as=8),
    "group": whole(3, 64, such_as=8),
    "micro_batch": whole(1, 64, such_as=1),
    "rollout_steps": whole(2, 100, such_as=10),
    "kernel": choice("flow", "dance", "cps"),
    "eta": number(0.001, 10, such_as=0.7),
    "window": whole(1, 100, such_as=2),
    "window_mode": choice("fixed", "random", "sliding"),
    "window_first": whole(0, 99, such_as=1),
    "window_last": whole(0, 99, such_as=3),
    "window_every": whole(1, such_as=10),
    "shared_start": Value(yes_or_no, "give true or false"),
    "ratio": choice("plain", "norm", "free", "frames"),
    "clip": optional(number(0, 1, such_as=5e-4)),
    "reweight_dt": Value(yes_or_no, "give true or false"),
    "advantage": choice("group", "batch", "none"),
    "advantage_floor": number(0, 10, such_as=0.1),
    "advantage_clip": number(0.1, 100, such_as=5),
    "kl": number(0, such_as=4e-4),
    "optimizer_steps": whole(1, 64, such_as=1),
    "rank": whole(1, 1024, such_as=64),
    "alpha": number(0.001, such_as=128),
    "targets": Value(_targets, f"give some of {', '.join(TARGETS)}"),
    "learning_rate": number(0, 1, such_as=1e-4),
    "warmup": whole(0, such_as=10),
    "weight_decay": number(0, 1, such_as=1e-4),
    "adam_epsilon": number(0, 1, such_as=1e-10),
    "gradient_clip": number(0, such_as=1),
    "ema_decay": number(0, 0.99999, such_as=0.9),
    "ema_every": whole(1, such_as=8),
    "checkpointing": Value(yes_or_no, "give true or false"),
    "deterministic": Value(yes_or_no, "give true or false"),
    "shard": Value(yes_or_no, "give true or false"),
    "guard_blank": number(0, such_as=2),
    "guard_copy": number(0, such_as=3),
    "guard_duplicate": number(0, such_as=2),
    "guard_recomposition": number(0, such_as=10),
    "guard_texture": number(0, such_as=3),
    "abort_invalid": number(0, 1, such_as=0.1),
    "abort_gradient": number(1, such_as=100),
    "abort_quiet": whole(1, such_as=20),
    "abort_ratio": number(0, such_as=1e-6),
    "sft_batch": whole(1, 1024, such_as=8),
    "sft_shift": number(-5, 5, such_as=0.5),
    "evaluate_every": whole(0, such_as=25),
    "evaluation_judge": optional(Value(name, "give the name of a judge, such as pixels")),
    "evaluation_judge_url": optional(Value(url, "give a URL without credentials, such as http://localhost:8001/v1", is_shown=False)),
    "evaluation_judge_model": optional(Value(name, "give the name that the server has for the model")),
    "save_every": whole(1, such_as=10),
    "keep": whole(1, 1000, such_as=3),
    "track": choice("none", "trackio", "tensorboard"),
}
"""How each is read."""
