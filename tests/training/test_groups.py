from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from faultlines.data import image_files
from faultlines.data.spurious import spurious_benchmark
from faultlines.models import SmallCNN
from faultlines.training import (
    ERM,
    EX2L,
    JTT,
    CrossEntropy,
    GroupDRO,
    GroupHistory,
    MaskOracle,
    Mixup,
    fit,
    fit_groups,
    seeded,
)
from faultlines.training.group_batches import GroupBatches, as_batch
from faultlines.training.groups import score
from faultlines.training.objectives.group_objective import at_once

CPU = torch.device("cpu")


def make(classes):
    return SmallCNN(classes=classes, width=2)


@pytest.fixture(scope="module")
def data():
    return spurious_benchmark(
        "m2m_hard", n_train=4, n_validation=2, n_test=2, n_ood_validation=3, size=32, patch=12
    )


def weights(model):
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def train(data, **options):
    return fit_groups(make, data.train, **{"epochs": 3, "batch_size": 8, **options})


def test_a_seed_decides_everything_and_nothing_else_does(data):
    torch.manual_seed(0)
    one = train(data, objective=EX2L(), seed=3)
    before = torch.random.get_rng_state()
    torch.manual_seed(1)
    two, other = train(data, objective=EX2L(), seed=3), train(data, objective=EX2L(), seed=4)
    assert torch.equal(weights(one.model), weights(two.model))
    assert one.history.terms == two.history.terms
    assert not torch.equal(weights(one.model), weights(other.model))
    assert not torch.equal(before, torch.random.get_rng_state()) and not one.model.training


def test_erm_is_the_ordinary_loop(data):
    """The same steps as `fit`, given the same batches."""
    options = {"lr": 2e-3, "weight_decay": 1e-4, "warmup": 0.3, "schedule": "onecycle", "grad_clip": None}
    model = seeded(lambda: make(4), 7)
    fit(
        model, data.train.x, data.train.y, epochs=3, batch_size=8, objective=CrossEntropy(), seed=7, **options
    )
    found = train(data, objective=ERM(), seed=7, flip=False)
    assert (weights(model) - weights(found.model)).abs().max() < 1e-6


def test_a_network_can_be_trained_on_the_confounder(data):
    # the patch that shows it is anywhere in the image
    found = fit_groups(make, data.train, epochs=60, batch_size=8, lr=0.02, objective=ERM("c"))
    numbered = data.train.c.unique(return_inverse=True)[1]
    assert (found.model(data.train.x).argmax(1) == numbered).float().mean() > 0.8


def test_confounders_groups_and_domains_are_numbered_from_zero(data):
    whole, groups = as_batch(data.train, CPU)
    assert groups == 8 and whole.group.unique().tolist() == list(range(8))
    assert whole.c.unique().tolist() == [0, 1, 2, 3] and data.train.c.unique().tolist() != [0, 1, 2, 3]
    assert torch.equal(whole.domain, data.train.environment)
    pairs = {(int(g), int(y), int(c)) for g, y, c in zip(whole.group, whole.y, whole.c, strict=True)}
    assert len(pairs) == 8
    bare = SimpleNamespace(x=data.train.x, y=data.train.y, c=data.train.c)
    assert torch.equal(as_batch(bare, CPU)[0].domain, whole.c) and as_batch(bare, CPU)[0].mask is None


def test_masks_are_mirrored_with_their_images(data):
    whole, _ = as_batch(data.train, CPU)
    whole = replace(whole, x=whole.mask[:, None].expand(-1, 3, -1, -1))  # the image is its own mask
    seen = list(GroupBatches(whole, batch_size=5, seed=0).epoch())
    assert [len(b.y) for b in seen] == [5] * 6 + [2]
    assert torch.cat([b.index for b in seen]).sort().values.tolist() == list(range(32))
    mirrored = 0
    for batch in seen:
        assert torch.equal(batch.x[:, 0], batch.mask)
        assert torch.equal(batch.y, data.train.y[batch.index])
        mirrored += int((batch.mask != whole.mask[batch.index]).any(dim=2).any(dim=1).sum())
    assert 8 < mirrored < 24


def test_scores_by_hand():
    y, c = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([5, 5, 2, 2, 2])

    class First(torch.nn.Module):
        def forward(self, x):
            return torch.stack([torch.ones(len(x)), torch.zeros(len(x))], dim=1)

    data = SimpleNamespace(x=torch.zeros(5, 1), y=y, c=c)
    found = score(First(), data, CPU, batch_size=2)
    assert (found.average, found.worst, found.split) == (0.6, 0.0, "")


@pytest.mark.parametrize("by", ["average", "worst"])
def test_selection_returns_the_chosen_epoch(data, by):
    validation = {"same": data.validation, "other": data.ood_validation}
    found = train(data, epochs=6, validation=validation, select=("other", by), seed=1, lr=0.02)
    values = getattr(found.history, by)["other"]
    assert found.epoch == values.index(max(values)) + 1
    assert getattr(score(found.model, data.ood_validation, CPU), by) == max(values)
    last = train(data, epochs=6, validation=validation, seed=1, lr=0.02)
    assert last.history.worst == found.history.worst and last.epoch == 6
    if found.epoch < 6:
        assert not torch.equal(weights(last.model), weights(found.model))


def test_a_test_set_chooses_nothing(data):
    with pytest.raises(ValueError, match="select='last' is a test set"):
        train(data, validation={"last": data.test}, select=("last", "worst"))


def test_an_equal_score_does_not_move_the_choice():
    assert GroupHistory(average={"v": [0.2, 0.7, 0.7, 0.1]}).selected("v", "average") == 1


@pytest.mark.parametrize("objective", [ERM(), GroupDRO(0.5), EX2L(), Mixup(), JTT(first=0.4)], ids=repr)
def test_a_run_taken_up_equals_one_without_a_break(data, objective, tmp_path, monkeypatch):
    options = {
        "objective": objective,
        "validation": {"v": data.ood_validation},
        "select": ("v", "worst"),
        "seed": 2,
    }
    whole = train(data, **options)
    path, saved = tmp_path / "run.pt", []
    import faultlines.training.groups as groups

    def save_then_stop(where, state):
        original(where, state)
        saved.append(where)
        if len(saved) == 2:
            raise KeyboardInterrupt

    original = groups.checkpoints.save
    monkeypatch.setattr(groups.checkpoints, "save", save_then_stop)
    with pytest.raises(KeyboardInterrupt):
        train(data, checkpoint=path, **options)
    monkeypatch.setattr(groups.checkpoints, "save", original)
    found = train(data, checkpoint=path, **options)
    assert torch.equal(weights(whole.model), weights(found.model)) and whole.epoch == found.epoch
    assert whole.history.terms == found.history.terms and whole.history.worst == found.history.worst
    assert torch.equal(weights(whole.loss), weights(found.loss)) if whole.loss.state_dict() else True


def test_a_checkpoint_of_another_run_is_refused(data, tmp_path):
    train(data, checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match="was made by another run"):
        train(data, checkpoint=tmp_path / "run.pt", objective=EX2L())


def test_the_environment_can_ask_for_checkpoints(data, tmp_path, monkeypatch):
    monkeypatch.setenv("FAULTLINES_CHECKPOINTS", str(tmp_path))
    first, again = train(data), train(data)
    assert len(list(tmp_path.glob("*.pt"))) == 1
    assert first.history == again.history and torch.equal(weights(first.model), weights(again.model))
    train(data, seed=1)
    assert len(list(tmp_path.glob("*.pt"))) == 2
    for objective in (EX2L(), GroupDRO(0.5)):  # asking for a name moves no state
        kept = train(data, objective=objective)
        monkeypatch.delenv("FAULTLINES_CHECKPOINTS")
        assert torch.equal(weights(train(data, objective=objective).model), weights(kept.model))
        monkeypatch.setenv("FAULTLINES_CHECKPOINTS", str(tmp_path))


def test_networks_that_differ_in_a_switch_keep_apart(data, tmp_path, monkeypatch):
    monkeypatch.setenv("FAULTLINES_CHECKPOINTS", str(tmp_path))

    class Scaled(SmallCNN):
        scale = 1.0

        def features(self, x):
            return self.scale * super().features(x)

    one = fit_groups(lambda k: Scaled(classes=k, width=2), data.train, epochs=1, batch_size=8)
    monkeypatch.setattr(Scaled, "scale", 3.0)
    other = fit_groups(lambda k: Scaled(classes=k, width=2), data.train, epochs=1, batch_size=8)
    assert not torch.equal(weights(one.model), weights(other.model))


def grouped(data, **changes):
    fields = {"x": data.train.x, "y": data.train.y, "c": data.train.c, "mask": data.train.mask}
    return SimpleNamespace(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({"c": torch.zeros(3).long()}, {}, r"c has shape \(3,\)"),
        ({"y": torch.zeros(32)}, {}, "y has shape .* dtype torch.float32"),
        ({"x": torch.zeros(32, 3, 32, 32).long()}, {}, "x has shape .* dtype torch.int64"),
        ({"mask": torch.zeros(32, 2, 2).bool()}, {}, r"mask has shape \(32, 2, 2\)"),
        ({}, {"batch_size": 33}, "batch_size=33 exceeds the number of samples, 32"),
        ({}, {"epochs": 0}, "epochs=0 must be"),
        (
            {},
            {"select": ("test", "worst")},
            "select='test' is not the name of a validation set: none is given",
        ),
        ({}, {"validation": "same", "select": ("v", "best")}, "select by 'best' is not one of"),
    ],
)
def test_what_does_not_fit_is_named(data, changes, options, said):
    if options.get("validation"):
        options = options | {"validation": {"v": data.validation}}
    with pytest.raises(ValueError, match=said):
        fit_groups(make, grouped(data, **changes), **{"epochs": 1, "batch_size": 8, **options})


def test_a_loss_that_is_not_finite_stops_the_run(data):
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 1 of .* under ERM"):
        fit_groups(make, grouped(data, x=data.train.x * float("nan")), epochs=3, batch_size=8)


def test_bytes_are_images_too(data):
    rounded = (255 * data.train.x).round().to(torch.uint8)
    given, whole = (train_on(grouped(data, x=x)) for x in (rounded, rounded.float() / 255))
    assert torch.equal(weights(given.model), weights(whole.model))
    half = data.train.x.half()
    given, whole = (train_on(grouped(data, x=x)) for x in (half, half.float()))
    assert torch.equal(weights(given.model), weights(whole.model))


def test_many_pixels_stay_where_they_are_and_batches_move(data, monkeypatch):
    images = grouped(data, x=(255 * data.train.x).to(torch.uint8))
    expected = weights(train_on(images).model)
    monkeypatch.setattr(image_files, "IN_MEMORY", 1000)
    assert torch.equal(weights(train_on(images).model), expected)
    elsewhere = torch.device("meta")  # stands for an accelerator
    whole, _ = as_batch(images, elsewhere)
    assert whole.x is images.x
    assert whole.y.device == whole.group.device == elsewhere
    batch = GroupBatches(whole, batch_size=8, seed=0, flip=False).draw(torch.arange(5))
    assert batch.x.device == elsewhere and batch.x.dtype == torch.float32 and len(batch.x) == 5


@pytest.mark.parametrize(("size", "most"), [(32, 512), (224, 55), (20_000, 1)])
def test_images_are_scored_as_many_at_a_time_as_memory_suggests(size, most):
    assert at_once(torch.empty(1, 3, size, size, device="meta"), 512) == most
    if size > 224:
        return
    x, seen = torch.zeros(most + 3, 3, size, size, dtype=torch.uint8), []

    class Corner(torch.nn.Module):
        def forward(self, images):
            seen.append(len(images))
            return images[:, :2, 0, 0]

    images = SimpleNamespace(x=x, y=torch.zeros(len(x)).long(), c=torch.zeros(len(x)).long())
    score(Corner(), images, CPU)
    assert seen == [most, 3]


def train_on(images):
    return fit_groups(make, images, epochs=2, batch_size=8, objective=JTT(first=0.5))


def test_callbacks_see_every_epoch_in_evaluation_mode(data):
    seen = []
    found = train(
        data,
        objective=EX2L(),
        callbacks=[lambda s: seen.append((s.model.training, s.objective.training, weights(s.model)))],
    )
    assert [kind[:2] for kind in seen] == [(False, False)] * 3
    assert torch.equal(seen[-1][2], weights(found.model)) and not torch.equal(seen[0][2], seen[-1][2])


def loader_of(split, batch_size=8, masks=True, **options):
    parts = [split.x, split.y, split.c, *([split.mask] if masks else [])]
    return DataLoader(TensorDataset(*parts), batch_size=batch_size, **options)


class InOrder(torch.utils.data.Sampler):
    """The order that tensors are read in under a seed."""

    def __init__(self, n, seed):
        self.n, self.order = n, torch.Generator().manual_seed(seed)

    def __iter__(self):
        return iter(torch.randperm(self.n, generator=self.order).tolist())

    def __len__(self):
        return self.n


@pytest.mark.parametrize("objective", [ERM(), EX2L(warmup=0.1, ramp=0.1), GroupDRO(), Mixup()])
def test_a_loader_in_the_order_of_the_tensors_is_the_tensors(data, objective):
    expected = train(data, objective=objective, seed=3)
    loader = loader_of(data.train, sampler=InOrder(len(data.train.y), 3))
    found = fit_groups(make, loader, epochs=3, objective=objective, seed=3)
    assert found.history.loss == expected.history.loss
    assert torch.equal(weights(found.model), weights(expected.model))


def test_what_a_loader_holds_is_left_alone(data):
    before = data.train.x.clone()
    fit_groups(make, loader_of(data.train, masks=False), epochs=1, objective=EX2L())
    assert torch.equal(data.train.x, before)


def test_what_a_loader_cannot_do_is_named(data):
    with pytest.raises(ValueError, match="JTT looks at all training images at once"):
        fit_groups(make, loader_of(data.train), epochs=1, objective=JTT())
    with pytest.raises(ValueError, match="MaskOracle needs data with foreground masks"):
        fit_groups(make, loader_of(data.train, masks=False), epochs=1, objective=MaskOracle())
    with pytest.raises(ValueError, match=r"must yield \(x, y, c\)"):
        fit_groups(make, DataLoader(TensorDataset(data.train.x, data.train.y), batch_size=4), epochs=1)
