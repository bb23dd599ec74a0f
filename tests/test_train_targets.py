"""Layered pictures as targets: frames, their latents in the model's layout, the times and the loss of flow matching."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from layerctl_train.picture_store import U8, Picture
from layerctl_train.sft_targets import TargetStore, draw_sigma, encoded, flow_loss, frames
from layerctl_train.training_data import Entry
from PIL import Image

from layerctl.colour import converted, srgb_profile
from layerctl.composite import flatten, largest_difference
from layerctl.engines.qwen.checkpoint import read_checkpoint
from layerctl.engines.qwen.model import Condition, LayeredModel, load_part, unpack
from layerctl.errors import InputError
from layerctl.layers import Group, Layer, LayerStack, on_canvas
from layerctl.source import SourceImage
from layerctl.testing import scene, specimen


@pytest.fixture(scope="module")
def model(tiny: Path) -> LayeredModel:
    return LayeredModel(None, load_part(read_checkpoint(tiny), "vae", torch.float32), device=torch.device("cpu"), dtype=torch.float32)


def plain(colour: tuple[int, int, int, int], box: tuple[int, int, int, int], name: str = "layer", *, opacity: float = 1.0) -> Layer:
    left, top, right, bottom = box
    return Layer(name, np.full((bottom - top, right - left, 4), colour, np.uint8), left, top, opacity)


def stack_of(*layers: Layer | Group, size: tuple[int, int] = (64, 48)) -> LayerStack:
    return LayerStack(*size, (plain((20, 40, 60, 255), (0, 0, *size), "Background"), *layers))


def over(shown: list[U8]) -> U8:
    height, width = shown[0].shape[:2]
    return flatten(LayerStack(width, height, tuple(Layer(f"layer {at}", frame) for at, frame in enumerate(shown))))


# frames


def test_at_its_own_size_the_frames_are_the_composite_and_the_layers_as_they_are() -> None:
    source, stack = scene(2, width=64, height=48, elements=3)
    composite, *layers = frames(stack, (64, 48), 8)
    assert np.array_equal(composite, source.pixels)
    assert len(layers) == 4
    for frame, layer in zip(layers, stack.walk(), strict=True):
        assert np.array_equal(frame, on_canvas(layer, 64, 48))


def test_at_another_size_the_layers_still_flatten_to_the_composite() -> None:
    _, stack = scene(2, width=200, height=150, elements=4)
    composite, *layers = frames(stack, (64, 48), 8)
    assert composite.shape == (48, 64, 4)
    assert np.abs(over(layers).astype(int) - composite).mean() < 0.5


def test_the_composite_is_reduced_as_the_condition_is() -> None:
    source, stack = scene(2, width=200, height=150)
    expected = Image.fromarray(source.pixels[..., :3].copy()).resize((64, 48), Image.Resampling.LANCZOS).convert("RGBA")
    assert largest_difference(frames(stack, (64, 48), 8)[0], np.asarray(expected)) <= 1


@pytest.mark.parametrize("size", [(16, 16), (48, 32), (96, 64), (256, 160)])
def test_hidden_colour_does_not_bleed_and_alpha_does_not_ring(size: tuple[int, int]) -> None:
    pixels = np.zeros((64, 96, 4), np.uint8)
    pixels[:, :48] = (200, 100, 50, 255)
    pixels[:, 48:, :3] = (0, 255, 255)
    frame = frames(stack_of(Layer("half", pixels), size=(96, 64)), size, 8)[2]
    alpha = frame[..., 3]
    assert np.abs(frame[alpha > 0][:, :3].astype(int) - (200, 100, 50)).max() <= 1
    assert not frame[alpha == 0].any()
    assert (np.diff(alpha.astype(int), axis=1) <= 0).all()
    reach = -(-size[0] // 96) + 1
    assert (alpha[:, : size[0] // 2 - reach] == 255).all()
    assert (alpha[:, size[0] // 2 + reach :] == 0).all()


def test_what_shows_nothing_is_no_layer() -> None:
    blank = Layer("blank", np.zeros((4, 4, 4), np.uint8))
    red = plain((255, 0, 0, 255), (0, 0, 20, 20))
    hidden = (
        replace(red, visible=False),
        replace(red, opacity=0.0),
        plain((0, 255, 0, 255), (70, 0, 90, 20)),
        Group("g", (red,), visible=False),
    )
    assert len(frames(stack_of(blank, red, *hidden), (64, 48), 8)) == 1 + 2
    with pytest.raises(InputError, match="shows 1 of its layers"):
        frames(stack_of(blank, *hidden), (64, 48), 8)


def test_a_dot_that_vanishes_at_the_models_size_is_no_layer() -> None:
    dot = plain((255, 255, 255, 1), (5, 5, 6, 6))
    with pytest.raises(InputError, match="shows 1 of its layers"):
        frames(stack_of(dot, size=(640, 480)), (64, 48), 8)


def test_an_opaque_group_is_its_layers_and_another_is_one() -> None:
    members = (plain((255, 0, 0, 255), (0, 0, 20, 20)), plain((0, 255, 0, 255), (10, 10, 30, 30)))
    assert len(frames(stack_of(Group("g", members)), (64, 48), 8)) == 1 + 3
    _, _, group = frames(stack_of(Group("g", members, opacity=0.5)), (64, 48), 8)
    assert group[15, 15].tolist() == [0, 255, 0, 128]


def test_opacity_profile_and_odd_layers_end_in_pixels() -> None:
    stack = specimen()
    composite, *layers = frames(stack, (stack.width, stack.height), 20)
    assert largest_difference(composite, converted(flatten(stack), stack.icc, None)) == 0
    assert largest_difference(over(layers), composite) <= 2
    half = frames(stack_of(plain((9, 9, 9, 255), (0, 0, 8, 8), opacity=0.5)), (64, 48), 8)[2]
    assert half[0, 0].tolist() == [9, 9, 9, 128]


def test_with_too_many_layers_the_neighbours_that_show_least_become_one() -> None:
    large = plain((255, 0, 0, 255), (0, 0, 30, 48), "large")
    small, dot = plain((0, 255, 0, 255), (40, 4, 48, 12), "small"), plain((0, 0, 255, 255), (50, 4, 54, 8), "dot")
    covered = plain((9, 9, 9, 255), (0, 0, 28, 48), "covered by large")
    stack = stack_of(covered, large, small, dot)
    composite, background, *others = frames(stack, (64, 48), 4)
    assert [frame[..., 3].astype(bool).sum() for frame in others] == [28 * 48, 30 * 48, 8 * 8 + 4 * 4]
    assert others[2][5, 44].tolist() == [0, 255, 0, 255]
    assert others[2][5, 51].tolist() == [0, 0, 255, 255]
    for most in (2, 3, 4, 5, 9):
        again, bottom, *rest = frames(stack, (64, 48), most)
        assert len(rest) == min(most, 5) - 1
        assert np.array_equal(again, composite)
        assert np.array_equal(bottom, background)
        assert np.array_equal(over([bottom, *rest]), composite)


def test_what_is_covered_does_not_count_as_shown_and_the_bottom_one_is_never_merged() -> None:
    covered, dot = plain((9, 9, 9, 255), (0, 0, 30, 48)), plain((255, 255, 255, 255), (60, 0, 64, 4))
    large, small, smaller = (plain((200, at, 0, 255), box) for at, box in enumerate(((0, 0, 60, 48), (60, 10, 64, 18), (60, 30, 63, 33))))
    _, background, *others = frames(stack_of(covered, dot, large, small, smaller), (64, 48), 5)
    assert background[0, 0].tolist() == [20, 40, 60, 255]
    assert [frame[..., 3].astype(bool).sum() for frame in others] == [30 * 48 + 16, 60 * 48, 32, 9]
    everything = plain((1, 2, 3, 255), (0, 0, 64, 48))
    assert (frames(stack_of(dot, everything, small), (64, 48), 3)[1] == (20, 40, 60, 255)).all()


def test_frames_are_in_srgb() -> None:
    swapped = srgb_profile().replace(b"rXYZ", b"----").replace(b"gXYZ", b"rXYZ").replace(b"----", b"gXYZ")
    stack = replace(stack_of(plain((255, 0, 0, 255), (0, 0, 20, 20))), icc=swapped)
    composite, _, layer = frames(stack, (64, 48), 8)
    assert composite[5, 5].tolist() == layer[5, 5].tolist() == [0, 255, 0, 255]


# latents


def condition_of(shown: list[U8]) -> Condition:
    rows, columns = (side // 16 for side in shown[0].shape[:2])
    return Condition(torch.zeros(1, rows * columns, 64), torch.zeros(1, 1, 1), rows, columns, len(shown) - 1)


def test_a_target_is_laid_out_as_the_model_decodes_it(model: LayeredModel) -> None:
    shown = frames(scene(1, width=48, height=32, elements=2)[1], (48, 32), 8)
    x0 = encoded(shown, model.encode_picture)
    condition = condition_of(shown)
    assert x0.shape == (1, 4 * 2 * 3, x0.shape[2])
    decoded = model.decode_layers(x0, condition)
    alone = [model.decode_layers(encoded([frame, frame], model.encode_picture), condition_of([frame, frame])) for frame in shown[1:]]
    assert torch.allclose(decoded, torch.cat(alone), atol=1e-5)
    assert not torch.allclose(decoded[0], decoded[1], atol=1e-3)
    latents = unpack(x0, 4, 2, 3)
    for at, frame in enumerate(shown):
        assert torch.equal(latents[:, :, at : at + 1], unpack(model.encode_picture(frame), 1, 2, 3))


def test_targets_are_made_once_and_kept(tmp_path: Path, model: LayeredModel) -> None:
    source, stack = scene(1, width=96, height=64, elements=4)
    entry = Entry("a.psd", "5" * 64, 96, 64, stack="6" * 64)
    read: list[str] = []
    small = SourceImage(np.zeros((32, 48, 4), np.uint8))
    picture = Picture(entry.key, entry.sha256, small, torch.zeros(1, 6, 4), 2, 3)

    def reading(asked: Entry) -> LayerStack:
        read.append(asked.key)
        return stack

    def store(most: int) -> TargetStore:
        return TargetStore(tmp_path, "VAE 1", most, reading, model.encode_picture)

    store(3).keep(entry, stack, (48, 32))
    target = store(3).target(entry, picture)
    assert (target.layers, read, target.condition) == (3, [], picture)
    assert torch.equal(target.x0, encoded(frames(stack, (48, 32), 3), model.encode_picture))
    assert store(8).target(entry, picture).layers == 5
    assert read == ["a.psd"]
    assert source.width == 96


def test_a_stack_of_one_layer_is_refused_when_it_is_kept(tmp_path: Path, model: LayeredModel) -> None:
    store = TargetStore(tmp_path, "", 4, lambda _: stack_of(), model.encode_picture)
    with pytest.raises(InputError, match="2 or more are needed"):
        store.keep(Entry("a.psd", "5" * 64, 64, 48, stack="6"), stack_of(), (64, 48))


# times and loss


def test_times_are_logit_normal_and_depend_on_their_counters_alone() -> None:
    drawn = torch.tensor([draw_sigma(3, step, member, shift=0.5) for step in range(60) for member in range(50)], dtype=torch.float64)
    logits = torch.logit(drawn)
    assert abs(logits.mean().item() - 0.5) < 4 / len(drawn) ** 0.5
    assert abs(logits.std().item() - 1) < 4 / (2 * len(drawn)) ** 0.5
    assert len(set(drawn.tolist())) == len(drawn)
    assert draw_sigma(3, 7, 1, shift=0.5) == drawn[7 * 50 + 1].item()
    assert draw_sigma(4, 7, 1, shift=0.5) != drawn[7 * 50 + 1].item()
    assert torch.logit(torch.tensor(draw_sigma(3, 0, 0, shift=-2.0), dtype=torch.float64)).item() == pytest.approx(logits[0].item() - 2.5)


def test_the_loss_is_the_mean_squared_distance_from_the_noise_less_the_picture() -> None:
    x0, eps = torch.randn(2, 3, 6, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(flow_loss(eps - x0, x0, eps), torch.zeros(3))
    off = eps - x0 + torch.tensor([1.0, 2.0, 0.0])[:, None, None]
    assert torch.allclose(flow_loss(off, x0, eps), torch.tensor([1.0, 4.0, 0.0]), atol=1e-5)
    assert flow_loss((eps - x0).bfloat16(), x0, eps).dtype == torch.float32


@pytest.mark.parametrize("sigma", [0.2, 0.5, 0.9])
def test_the_best_linear_velocity_of_gaussian_data_is_the_one_of_theory(sigma: float) -> None:
    # x0 ~ N(0, d^2): E[eps - x0 | x] = (sigma - (1 - sigma) d^2) / ((1 - sigma)^2 d^2 + sigma^2) * x.
    deviation = 0.6
    x0, eps = torch.randn(2, 1, 200_000, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x0 *= deviation
    x = (1 - sigma) * x0 + sigma * eps
    best = (sigma - (1 - sigma) * deviation**2) / ((1 - sigma) ** 2 * deviation**2 + sigma**2)
    slope = torch.tensor(best, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(flow_loss(slope * x, x0, eps).sum(), slope)
    assert abs(gradient.item()) < 0.02
    at, less, more = (flow_loss((best + shift) * x, x0, eps).item() for shift in (0, -0.1, 0.1))
    assert at < min(less, more)
