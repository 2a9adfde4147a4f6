"""Learning rates, staged layers and averaged weights."""

from __future__ import annotations

import pytest
import torch

from export.model.mask_rcnn import MaskRCNN
from export.training.config import Layers, OptimizerConfig, Regime
from export.training.schedule import (
    WeightAverage,
    learning_rate,
    make_optimizer,
    regime_at,
    set_learning_layers,
)
from tests.export.training.small import small_model_config


def rates(config: OptimizerConfig, steps: int = 10) -> list[float]:
    return [learning_rate(step, steps, config) for step in range(steps)]


def test_warm_up_rises_evenly_to_the_rate() -> None:
    found = rates(OptimizerConfig(learning_rate=1.0, warmup_steps=4))
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, 1, 1, 1, 1, 1, 1])


def test_step_decay_multiplies_at_each_milestone() -> None:
    found = rates(OptimizerConfig(learning_rate=1.0, decay="step", milestones=(3, 8)))
    assert found == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_decay_goes_from_the_rate_to_its_final_part() -> None:
    config = OptimizerConfig(learning_rate=2.0, decay="cosine", final_factor=0.1, warmup_steps=2)
    assert learning_rate(2, 10, config) == pytest.approx(2.0)
    assert learning_rate(6, 10, config) == pytest.approx(2.0 * 0.55)
    assert learning_rate(10, 10, config) == pytest.approx(0.2)


def test_regimes_follow_each_other_and_all_layers_come_last() -> None:
    regimes = (Regime(2, "heads"), Regime(5, "4+", 0.5))
    config = OptimizerConfig(learning_rate=1.0, regimes=regimes)
    assert [regime_at(s, config).layers for s in range(7)] == ["heads"] * 2 + ["4+"] * 3 + ["all"] * 2
    assert rates(config, 7) == pytest.approx([1, 1, 0.5, 0.5, 0.5, 1, 1])


@pytest.mark.parametrize(
    ("layers", "learning_stages"),
    [("heads", set()), ("5+", {"5"}), ("4+", {"4", "5"}), ("3+", {"3", "4", "5"}), ("all", {"m", "2", "3", "4", "5"})],
)
def test_only_the_regimes_layers_learn(layers: Layers, learning_stages: set[str]) -> None:
    model = MaskRCNN(small_model_config())
    set_learning_layers(model, layers)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {n.split(".")[1][-1] for n in learning if n.startswith("backbone.")} == learning_stages
    rest = {n for n, _ in model.named_parameters() if not n.startswith("backbone.")}
    assert rest <= learning


def test_weight_decay_spares_norms_and_biases() -> None:
    model = MaskRCNN(small_model_config())
    decayed, spared = make_optimizer(model, OptimizerConfig(weight_decay=0.1)).param_groups
    assert decayed["weight_decay"] == 0.1
    assert spared["weight_decay"] == 0.0
    assert all(p.dim() > 1 for p in decayed["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


def test_the_average_moves_by_its_decay_and_copies_statistics() -> None:
    model = MaskRCNN(small_model_config())
    average = WeightAverage(model, decay=0.9)
    before = model.rpn_head.deltas.weight.detach().clone()
    with torch.no_grad():
        model.rpn_head.deltas.weight += 1.0
        model.backbone.stem.norm.running_mean += 3.0
    average.update(model, step=1000)
    assert torch.allclose(average.model.rpn_head.deltas.weight, before + 0.1)
    assert torch.equal(average.model.backbone.stem.norm.running_mean, model.backbone.stem.norm.running_mean)
    average.update(model, step=1)
    # early on the average covers fewer steps: decay 2 / 11
    assert torch.allclose(average.model.rpn_head.deltas.weight, before + 1 - 0.9 * 2 / 11)
