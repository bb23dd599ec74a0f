"""The loop of `layerctl train` on the tiny checkpoint: generate, score, train."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from layerctl_train.base import Base
from layerctl_train.run_config import from_toml
from layerctl_train.training_run import TrainingRun

from layerctl.engines.qwen.adapters import attach, find_adapter
from layerctl.engines.qwen.checkpoint import read_checkpoint
from layerctl.engines.qwen.lora_keys import linear_modules, read_lora
from layerctl.engines.qwen.model import Condition, LayeredModel, empty_part, load_part
from layerctl.engines.qwen.prompts import TextEncoder
from layerctl.errors import InputError, OutputError, TrainingStoppedError, UsageError
from layerctl.layers import LayerStack
from tests.train_run import Quick, assert_same_run, kept, metrics, points_by_chance, small_run, train


def test_training_changes_the_adapter_and_the_velocity_of_who_loads_it(tiny: Path, photos: Path, judge: Quick) -> None:
    assert train(small_run(tiny, photos), Path("run")) == 0
    steps = metrics(Path("run"))
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert all(step["ratio/first"] == 0 and step["groups/taught"] == 2 and step["gradient/norm"] > 0 for step in steps)
    assert steps[0]["kl/velocity"] == 0 < steps[2]["kl/velocity"]
    checkpoint = read_checkpoint(tiny)
    model = LayeredModel(load_part(checkpoint, "transformer", torch.float32), None, device=torch.device("cpu"), dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    picture, prompt, x = (torch.randn(1, *shape, generator=generator) for shape in ((16, 64), (5, 16), (48, 64)))
    condition, sigma = Condition(picture, prompt, 4, 4, 2), torch.tensor(0.7)
    with torch.no_grad():
        before = model.velocity(x, sigma, condition)
        adapter = find_adapter(Path("run/adapter"), name="run")
        attach(model.transformer, [adapter], [read_lora(adapter, linear_modules(empty_part(checkpoint, "transformer")))])
        after = model.velocity(x, sigma, condition)
    assert 1e-6 < float((after - before).abs().max()) < 1
    assert adapter.prompt == "a clean, well composed image"
    assert adapter.preset == "stable-layers"


def test_every_candidate_is_judged_once_as_the_model_made_it(tiny: Path, photos: Path, judge: Quick) -> None:
    train(small_run(tiny, photos, "updates=2"), Path("run"))
    assert [len(group) for group in judge.asked] == [4] * 4
    assert len({candidate for group in judge.asked for candidate in group}) == 16
    assert judge.told == ["a clean, well composed image"] * 4
    assert judge.closed


def test_a_run_that_went_on_equals_one_that_went_through(tiny: Path, photos: Path, judge: Quick) -> None:
    settings = ("optimizer_steps=2", "shared_start=true", "layers=2-3", "window_mode=sliding", "window_every=1")
    train(small_run(tiny, photos, *settings, "updates=4"), Path("through"))
    train(small_run(tiny, photos, *settings, "updates=2"), Path("parts"))
    torch.randn(7)
    train(small_run(tiny, photos, *settings, "updates=4"), Path("parts"), resume=True)
    assert_same_run(Path("through"), Path("parts"), 4)


def test_another_seed_is_another_run(tiny: Path, photos: Path, judge: Quick) -> None:
    train(small_run(tiny, photos, "updates=1"), Path("one"))
    train(small_run(tiny, photos, "updates=1", "seed=1"), Path("other"))
    assert metrics(Path("one")) != metrics(Path("other"))


@pytest.mark.parametrize("moment", [3, 28, 60])
def test_what_interrupts_a_step_leaves_the_step_before_it(
    tiny: Path, photos: Path, judge: Quick, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    config = small_run(tiny, photos, "optimizer_steps=2", "updates=2")
    train(config, Path("through"))
    velocity, calls = TrainingRun.velocity, 0

    def counted(run: TrainingRun, x: torch.Tensor, sigma: torch.Tensor, condition: Condition) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == moment:
            run.interrupt.noted = True
        return velocity(run, x, sigma, condition)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "velocity", counted)
        assert train(config, Path("parts")) == 130
    assert len(metrics(Path("parts"))) < 2
    assert train(config, Path("parts"), resume=True) == 0
    assert_same_run(Path("through"), Path("parts"), 2)


def test_groups_without_signal_are_left_out_whole(tiny: Path, photos: Path, judge: Quick) -> None:
    judge.why_not = "the scores lie within 0.1 points"
    train(small_run(tiny, photos, "updates=2", "kl=1"), Path("run"))
    assert all(step["groups/taught"] == 0 and step["groups/skipped"] == 2 and "loss/kl" not in step for step in metrics(Path("run")))
    first, last = kept(Path("run"), 0), kept(Path("run"), 2)
    assert all(tensor.equal(last[name]) for name, tensor in first.items())


def test_a_run_that_learns_nothing_for_long_stops(tiny: Path, photos: Path, judge: Quick) -> None:
    judge.why_not = "the scores lie within 0.1 points"
    with pytest.raises(TrainingStoppedError, match=r"no group of the last 2 steps taught anything; .* within 0.1 points"):
        train(small_run(tiny, photos, "updates=5", "abort_quiet=2"), Path("run"))


def test_failures_of_the_judge_teach_nothing_and_many_of_them_stop_the_run(tiny: Path, photos: Path, judge: Quick) -> None:
    count = 0

    def failing(stack: LayerStack) -> float:
        nonlocal count
        count += 1
        return math.nan if count % 8 == 1 else points_by_chance(stack)

    judge.points = failing
    train(small_run(tiny, photos, "updates=1", "abort_invalid=0.2"), Path("few"))
    (step,) = metrics(Path("few"))
    assert (step["invalid"], step["groups/taught"]) == (1 / 8, 2)
    with pytest.raises(TrainingStoppedError, match="1 of 8 candidates of this step have no score, more than 10%; most often: no answer"):
        train(small_run(tiny, photos, "updates=1"), Path("many"))
    assert (Path("many") / "checkpoints" / "step-000000").is_dir()
    assert (Path("many") / "adapter" / "adapter_model.safetensors").is_file()


def test_a_judge_that_stops_the_run_leaves_it_to_be_gone_on_with(tiny: Path, photos: Path, judge: Quick) -> None:
    config = small_run(tiny, photos, "updates=2")
    train(config, Path("through"))

    def stopping(stack: LayerStack) -> float:
        if len(judge.asked) > 6:
            raise UsageError("the judge is out of money")
        return points_by_chance(stack)

    judge.points = stopping
    with pytest.raises(UsageError, match="out of money"):
        train(config, Path("parts"))
    judge.points = points_by_chance
    train(config, Path("parts"), resume=True)
    assert_same_run(Path("through"), Path("parts"), 2)


def test_a_group_is_scored_while_the_next_one_is_sampled(tiny: Path, photos: Path, judge: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    config, velocity, calls, sampled = small_run(tiny, photos, "updates=1"), TrainingRun.velocity, 0, threading.Event()

    def counted(run: TrainingRun, x: torch.Tensor, sigma: torch.Tensor, condition: Condition) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 8:
            sampled.set()
        return velocity(run, x, sigma, condition)

    def waiting(stack: LayerStack) -> float:
        assert sampled.wait(60), "the judge was waited for before the second group began"
        return points_by_chance(stack)

    monkeypatch.setattr(TrainingRun, "velocity", counted)
    judge.points = waiting
    assert train(config, Path("run")) == 0


def test_penalties_for_faults_in_pixels_come_off_the_judges_points(tiny: Path, photos: Path, judge: Quick) -> None:
    train(small_run(tiny, photos, "updates=1"), Path("run"))
    (step,) = metrics(Path("run"))
    assert step["guard/points"] > 0
    assert step["reward/mean"] == pytest.approx(step["reward/judge"] - step["guard/points"])


def test_a_run_from_an_adapter_is_held_close_to_that_adapter(tiny: Path, photos: Path, judge: Quick) -> None:
    train(small_run(tiny, photos, "learning_rate=0.01"), Path("first"))
    train(small_run(tiny, photos, "updates=1", "start=first/adapter"), Path("second"))
    (step,) = metrics(Path("second"))
    assert step["kl/velocity"] == 0
    begun, ended = kept(Path("second"), 0), kept(Path("first"), 3)
    name = next(name for name in begun if name.startswith("policy.safetensors transformer") and name.endswith("lora_B"))
    assert begun[name].equal(ended[name.replace(" ", " ema.")])


def test_pictures_that_changed_between_two_parts_are_refused(tiny: Path, photos: Path, judge: Quick) -> None:
    config = small_run(tiny, photos, "updates=1")
    train(config, Path("run"))
    (photos / "photo-1.png").unlink()
    with pytest.raises(UsageError, match=r"are not those that the run began with: 1 gone \(photo-1.png\)"):
        train(config, Path("run"), resume=True)


def test_supervised_training_learns_layers_and_its_adapter_starts_reinforcement(tiny: Path, photos: Path, judge: Quick) -> None:
    config = small_run(
        tiny, "scenes:2", "method=sft", "sft_batch=2", "updates=12", "learning_rate=0.03", "holdout=0", "layers=2-3", "save_every=12"
    )
    train(config, Path("warm"))
    losses = [step["loss/flow"] for step in metrics(Path("warm"))]
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])
    train(small_run(tiny, photos, "updates=1", "start=warm/adapter"), Path("run"))
    assert metrics(Path("run"))[0]["kl/velocity"] == 0


def test_evaluation_goes_by_the_held_out_pictures_and_the_average(tiny: Path, photos: Path, judge: Quick) -> None:
    said: list[str] = []
    train(small_run(tiny, photos, "updates=2", "evaluate_every=2", "evaluation_judge=quick"), Path("run"), tell=said.append)
    assert [line.partition(":")[0] for line in said if "held-out" in line] == ["step 0", "step 2"]
    assert sorted(path.name for path in Path("run/samples").iterdir()) == ["step-000000.png", "step-000002.png"]
    trained = {key for group in judge.asked if len(group) == 4 for key in group}
    assert sum(len(group) == 1 for group in judge.asked) == 4
    assert not trained & {key for group in judge.asked if len(group) == 1 for key in group}


def test_the_prompt_that_lies_beside_a_picture_reaches_the_model_and_the_judge(tiny: Path, photos: Path, judge: Quick) -> None:
    for number in range(5):
        (photos / f"photo-{number}.txt").write_text(f"picture {number}", encoding="utf-8")
    train(small_run(tiny, photos, "updates=1", "prompt_mode=given", "holdout=0"), Path("run"))
    assert set(judge.told) < {f"picture {number}" for number in range(5)}
    assert find_adapter(Path("run/adapter"), name="run").prompt is None


def test_pictures_are_told_by_their_captions_which_are_made_before_the_transformer_comes(
    tiny: Path, photos: Path, judge: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    load = Base.load

    def caption(encoder: TextEncoder, pixels: np.ndarray) -> str:
        order.append("caption")
        return f"{pixels[0, 0]}"

    def loaded(base: Base, *, aside: bool) -> object:
        order.append("transformer")
        assert base.session.encoder is None
        return load(base, aside=aside)

    monkeypatch.setattr(TextEncoder, "caption", caption)
    monkeypatch.setattr(Base, "load", loaded)
    train(small_run(tiny, photos, "updates=1", "prompt_mode=caption"), Path("run"))
    assert order == ["caption"] * 5 + ["transformer"]
    assert len(set(judge.told)) == 2


def test_captions_that_cannot_be_kept_are_refused_before_the_transformer_comes(
    tiny: Path, photos: Path, judge: Quick, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "full").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "full"))
    monkeypatch.setattr(TextEncoder, "caption", lambda *_: "a picture")
    with pytest.raises(OutputError, match="the words of each picture cannot be kept in"):
        train(small_run(tiny, photos, "updates=1", "prompt_mode=caption"), Path("run"))


def test_pictures_beyond_the_limit_of_pixels_are_left_out(tiny: Path, photos: Path, judge: Quick) -> None:
    said: list[str] = []
    train(small_run(tiny, photos, "updates=1", "holdout=0", "max_pixels=3500"), Path("run"), tell=said.append)
    assert [line.partition(" is left out")[0] for line in said if "left out" in line] == ["photo-1.png", "photo-3.png"]


def test_without_words_the_adapter_asks_for_none(tiny: Path, photos: Path, judge: Quick) -> None:
    train(small_run(tiny, photos, "updates=1", "prompt_mode=empty"), Path("run"))
    assert set(judge.told) == {" "}
    assert find_adapter(Path("run/adapter"), name="run").prompt == " "


def test_a_compiled_model_is_replayed_against_means_of_its_own_graph(
    tiny: Path, photos: Path, judge: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    velocity = TrainingRun.velocity

    def differing(run: TrainingRun, x: torch.Tensor, sigma: torch.Tensor, condition: Condition) -> torch.Tensor:
        # As graphs with and without gradients may.
        return velocity(run, x, sigma, condition) * (1 + 1e-3 * torch.is_grad_enabled())

    monkeypatch.setattr(TrainingRun, "velocity", differing)
    with pytest.raises(TrainingStoppedError, match=r"the first replay's log ratio is .* away from 0"):
        train(small_run(tiny, photos, "updates=1"), Path("eager"))
    monkeypatch.setattr("diffusers.QwenImageTransformer2DModel.compile_repeated_blocks", lambda *_, **__: None)
    train(small_run(tiny, photos, "updates=1", "compile=true", "kl=0"), Path("compiled"))
    assert metrics(Path("compiled"))[0]["ratio/first"] == 0


def test_the_written_config_is_the_runs(tiny: Path, photos: Path, judge: Quick) -> None:
    config = small_run(tiny, photos, "updates=1")
    train(config, Path("run"))
    assert from_toml(Path("run/config.toml").read_text(encoding="utf-8")) == config


def test_an_exploding_gradient_stops_before_it_is_learned(tiny: Path, photos: Path, judge: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", lambda *_: torch.tensor(math.inf))
    with pytest.raises(TrainingStoppedError, match="the gradient's norm is inf"):
        train(small_run(tiny, photos, "updates=1"), Path("run"))
    assert metrics(Path("run")) == []
    assert kept(Path("run"), 0)


def test_a_run_that_could_not_begin_leaves_nothing(tiny: Path, folder: Path, judge: Quick) -> None:
    (folder / "broken").mkdir()
    (folder / "broken" / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="has no picture to train on"):
        train(small_run(tiny, folder / "broken"), Path("runs/broken-1"))
    assert not Path("runs/broken-1").exists()


def test_the_fixed_prompts_encoder_is_gone_before_the_transformer_comes(
    tiny: Path, photos: Path, judge: Quick, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    order: list[str] = []
    embed, load = TextEncoder.embed, Base.load

    def embedded(encoder: TextEncoder, prompt: str) -> torch.Tensor:
        order.append(prompt)
        return embed(encoder, prompt)

    def loaded(base: Base, *, aside: bool) -> object:
        order.append("transformer")
        assert base.session.encoder is None
        return load(base, aside=aside)

    monkeypatch.setattr(TextEncoder, "embed", embedded)
    monkeypatch.setattr(Base, "load", loaded)
    train(small_run(tiny, photos, "updates=1"), Path("run"))
    assert order == ["a clean, well composed image", "transformer"]


def test_what_is_evaluated_on_is_not_trained_on(tiny: Path, photos: Path, folder: Path, judge: Quick) -> None:
    (folder / "apart").mkdir()
    (photos / "photo-1.png").rename(folder / "apart" / "a.png")
    (folder / "apart" / "b.png").write_bytes((photos / "photo-2.png").read_bytes())
    said: list[str] = []
    config = small_run(tiny, photos, "updates=2", "evaluate_every=2", evaluation_data=str(folder / "apart"))
    train(config, Path("run"), tell=said.append)
    assert any(line.startswith("1 pictures are in --eval-data") for line in said)
    assert any(line.endswith("3 pictures") and line.startswith("beginning") for line in said)
    assert any(line.startswith("step 2: 2 held-out pictures") for line in said)
    with pytest.raises(UsageError, match="all pictures of the data are in --eval-data"):
        train(small_run(tiny, photos, "updates=1", evaluation_data=str(photos)), Path("other"))


def test_a_run_that_taught_nothing_for_long_may_be_given_longer(tiny: Path, photos: Path, judge: Quick) -> None:
    judge.why_not = "the scores lie within 0.1 points"
    with pytest.raises(TrainingStoppedError, match="of the last 2 steps"):
        train(small_run(tiny, photos, "updates=5", "abort_quiet=2"), Path("run"))
    with pytest.raises(TrainingStoppedError, match="of the last 4 steps"):
        train(small_run(tiny, photos, "updates=5", "abort_quiet=4"), Path("run"), resume=True)
    assert [step["step"] for step in metrics(Path("run"))] == [1, 2, 3]
