"""A report card: someone's attention mechanism or trained classifier under the probes, beside reference mechanisms.

A mechanism is trained in the small transformer to the training loss of the references, a seed at a time, and compared
with them over seeds; the numbers of the references are stored with the library, so that only the target is trained. A
classifier is taken as it is, and its intervals are over disjoint batches of images. What a target must be able to do is
checked before anything is trained.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from faultlines import __version__
from faultlines.data.dataset import Dataset, Task, make_task
from faultlines.data.image_files import list_images, read_images
from faultlines.data.loading import load
from faultlines.estimators.attribution.methods import attribute
from faultlines.estimators.lipschitz.local import local_lipschitz
from faultlines.models.inference import logits_of
from faultlines.models.recorder import Tape, record, recording_torch_layers
from faultlines.models.vit import ViT
from faultlines.models.weight_files import one_line
from faultlines.studies.card_target import (
    Target,
    check_classifier,
    check_mechanism_target,
    find_target,
    made_classifier,
    maps_of_timm,
)
from faultlines.studies.sensitivity import PROBES, Moved, Probe, ProbeBudget, _apart
from faultlines.training.fit import fit
from faultlines.training.seeding import seeded

SCHEMA = 1
REFERENCES = Path(__file__).with_name("card_references.json")
MAP = "attention map"
NO_MAP = "the mechanism returns its output alone, and no map"
FEW = 8  # images of a rehearsal
LARGEST_KERNEL = 300_000  # weights above which a network's tangent kernel is too large for a card

Numbers = dict[str, Any]
"""Of one network: accuracy, loss, and by probe `[attack, noise]`."""


@dataclass(frozen=True)
class Setting:
    """What the target and the references have in common.

    Attributes:
        dataset: Name of the data set.
        radius: Of every attack and of all noise, pixels in [0, 1], maximum norm.
        loss: Training loss at which mechanisms are compared.
        train_size: Training images of a seed.
        test_size: Test images of a seed.
        grid: Patches a side.
        dim: Width of a token.
        depth: Blocks.
        heads: Heads a block.
        epochs: Passes after which a network counts as not having reached the loss.
        n_images: Images under the probes, of those that the network itself classifies rightly.
        n_influence: Training images whose influences are computed.
        steps: Gradient steps of an attack, and draws of its noise.
    """

    dataset: str = "digits"
    radius: float = 0.08
    loss: float = 0.2
    train_size: int = 600
    test_size: int = 300
    grid: int = 4
    dim: int = 32
    depth: int = 1
    heads: int = 2
    epochs: int = 150
    n_images: int = 24
    n_influence: int = 40
    steps: int = 8


class _Logits(nn.Module):
    """A classifier that returns its logits, whatever it returned them in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.pool = model, "cls"

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        return logits_of(self.model(x))


def measure_mechanism(
    make: Callable[..., Any] | str, data: Dataset, setting: Setting, seed: int
) -> Numbers | None:
    """Train one network with a mechanism to the loss, and return its numbers; None where it does not come there.

    Images, first weights and their order are those of the seed, whatever the mechanism. A mechanism that hands out no
    map has no numbers under the probe of maps.
    """
    x, y, x_test, y_test = _task(data, setting, seed)
    model = _network(make, data, setting, seed)
    history = fit(
        model, x, y, seed=seed, epochs=setting.epochs, batch_size=min(64, len(x)), lr=0.01, weight_decay=0.0,
        warmup=0.0, schedule="constant", stop_at_loss=setting.loss, stop_every=20,
    )  # fmt: skip
    if history.stopped_at is None:
        return None
    with torch.no_grad(), record() as tape:
        model.eval()(x[:1])
    return look(model, (x, y), (x_test, y_test), setting, seed, _probes(tape))


def _probes(tape: Tape) -> dict[str, Probe]:
    return {name: probe for name, probe in PROBES.items() if tape.layers or name != MAP}


def _miniature(
    model: nn.Module, probes: Mapping[str, Probe], task: Sequence[Tensor], setting: Setting
) -> float:
    # seconds in which the probes look at a few images with one step
    x, y, x_test, y_test = task
    start = time.process_time()
    for probe in probes.values():
        probe(
            model, (x[:4], y[:4]), (x_test[:FEW], y_test[:FEW]), ProbeBudget(eps=setting.radius, steps=1), 0
        )
    return time.process_time() - start


def _task(data: Dataset, setting: Setting, seed: int) -> Task:
    return make_task(
        data, None, n_train=setting.train_size, n_test=setting.test_size, seed=seed, dtype=torch.float32
    )


def _network(make: Callable[..., Any] | str, data: Dataset, setting: Setting, seed: int) -> ViT:
    def network() -> ViT:
        return ViT(
            image_shape=data.image_shape, patch_size=data.image_shape[1] // setting.grid,
            classes=len(data.classes), dim=setting.dim, depth=setting.depth, heads=setting.heads, attention=make,
        )  # fmt: skip

    return seeded(network, seed)


def rehearse(target: Target, data: Dataset, setting: Setting) -> float:
    """Send a few images through an untrained network with a mechanism and through every probe, before it is trained.

    Returns:
        Seconds that one network takes at the most.

    Raises:
        ValueError: If the images are too few or of another shape than the setting's, or a probe cannot look at the
            network; one line.
    """
    try:
        task = _task(data, setting, 0)
        model = _network(target.make, data, setting, 0)
        with record() as tape:
            start = time.process_time()
            nn.functional.cross_entropy(model(task.x[:64]), task.y[:64]).backward()
            step = time.process_time() - start
        looked = _miniature(model.eval(), _probes(tape), task, setting)
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        said = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(
            f"target={target.name!r} on {data.name!r}, in an untrained network: {said}"
        ) from error
    passes = setting.epochs * math.ceil(setting.train_size / 64)
    return passes * step + looked * setting.steps * setting.n_images / FEW


def look(
    model: nn.Module,
    train: tuple[Float[Tensor, "n channel height width"], Int64[Tensor, " n"]],
    test: tuple[Float[Tensor, "t channel height width"], Int64[Tensor, " t"]],
    setting: Setting,
    seed: int,
    probes: Mapping[str, Probe],
) -> Numbers:
    """Return a network's accuracy, loss, and how far each probe moves it under attack and under noise.

    Raises:
        ValueError: If it classifies fewer than two images rightly.
    """
    (x, y), (x_test, y_test) = train, test
    with torch.no_grad():
        logits = model(x_test)
        loss = nn.functional.cross_entropy(model(x), y).item()
    right = logits.argmax(dim=1) == y_test
    chosen = right.nonzero().flatten()[: setting.n_images]
    if not (math.isfinite(loss) and bool(logits.isfinite().all())):
        raise ValueError(
            f"the network returns values that are not finite on the {len(x) + len(x_test)} images"
        )
    if len(chosen) < 2:
        raise ValueError(
            f"the network has {len(chosen)} of {len(y_test)} images right, and two are needed; with fewer seeds a "
            "classifier's batches of test images are larger"
        )
    budget = ProbeBudget(eps=setting.radius, steps=setting.steps)
    few = (x[: setting.n_influence], y[: setting.n_influence])
    numbers: Numbers = {"accuracy": right.double().mean().item(), "loss": loss, "probes": {}}
    for name, probe in probes.items():
        moved = probe(model, few, (x_test[chosen], y_test[chosen]), budget, seed)
        if not (math.isfinite(moved.attack) and math.isfinite(moved.noise)):
            raise ValueError(
                f"the network moves by {moved.attack:g} under {name}, by {moved.noise:g} under noise"
            )
        numbers["probes"][name] = [moved.attack, moved.noise]
    return numbers


def measure_classifier(
    model: nn.Module,
    data: Dataset,
    setting: Setting,
    batches: int,
    keep: Callable[[int, Callable[[], Numbers]], Numbers] = lambda _, measure: measure(),
) -> tuple[list[Numbers], dict[str, str]]:
    """Measure a classifier on disjoint batches of test images with the probes that fit it.

    Args:
        model: The classifier.
        data: The data set.
        setting: See `Setting`.
        batches: How many.
        keep: Called with the number of a batch and what measures it; returns its numbers.

    Returns:
        The numbers of each batch, and why a probe is left out, by probe.
    """
    each = min(setting.test_size, len(data.x_test) // batches)
    order = torch.randperm(len(data.x_test), generator=torch.Generator().manual_seed(0))
    draw = torch.randperm(len(data.x_train), generator=torch.Generator().manual_seed(1))[: setting.train_size]
    with _fitting(model, data) as (wrapped, probes, left):
        train, found = (data.x_train[draw], data.y_train[draw]), []
        for n in range(batches):
            part = order[n * each : (n + 1) * each]
            test = (data.x_test[part], data.y_test[part])
            found.append(keep(n, partial(look, wrapped, train, test, setting, n, probes)))
    return found, left


@contextmanager
def _fitting(model: nn.Module, data: Dataset) -> Iterator[tuple[nn.Module, dict[str, Probe], dict[str, str]]]:
    # a classifier that returns its logits and hands its maps to the recorder, the probes for it, and why others are not
    wrapped = _Logits(model).eval()
    probes: dict[str, Probe] = {**PROBES, "logits": _steep_logits}
    left = {"attention layer": "a classifier's attention layers are not run one by one"}
    with maps_of_timm(model):
        wrapped.pool = _read_out(model, data.x_test[:1])
        try:
            attribute(wrapped, data.x_test[:2], data.y_test[:2], method="raw_attention", create_graph=True)
        except (ValueError, RuntimeError) as error:
            said = one_line(error).replace(_Logits.__name__, type(model).__name__)
            left[MAP] = f"none can be read: {said}"
        if sum(p.numel() for p in model.parameters()) > LARGEST_KERNEL:
            left["influence"] = f"the tangent kernel of more than {LARGEST_KERNEL:,} weights is left out"
        yield wrapped, {name: probe for name, probe in probes.items() if name not in left}, left


def seconds_of_a_batch(target: Target, data: Dataset, setting: Setting, weights: str = "") -> float | None:
    """Return at most how many seconds a classifier's batch takes; None where a few images are too few to tell."""
    task = (data.x_train, data.y_train, data.x_test, data.y_test)
    try:
        with _fitting(made_classifier(target, weights), data) as (wrapped, probes, _):
            return _miniature(wrapped, probes, task, setting) * setting.steps * setting.n_images / FEW
    except (ValueError, RuntimeError):
        return None


def _read_out(model: nn.Module, x: Float[Tensor, "1 channel height width"]) -> str:
    # a square number of tokens is a grid of patches, of which all are read out; one more is a class token
    said = getattr(model, "pool", None)
    if said in ("cls", "mean"):
        return str(said)
    with torch.no_grad(), recording_torch_layers(model), record() as tape:
        model(x)
    tokens = tape.maps[0].shape[-1] if tape.maps else 0
    return "mean" if tokens and math.isqrt(tokens) ** 2 == tokens else "cls"


def _steep_logits(model: nn.Module, train: Any, test: Any, budget: ProbeBudget, seed: int) -> Moved:
    """Return what `steepness` does of logits, of any classifier."""
    x = test[0]
    found = local_lipschitz(
        model, x, budget.eps, directions=budget.steps, ascent_steps=budget.steps, norm="linf",
        generator=torch.Generator(x.device).manual_seed(seed),
    )  # fmt: skip
    with torch.no_grad():
        apart = _apart(model(x))
    attack, noise = ((side * budget.eps / apart).log().mean().item() for side in (found.ascent, found.random))
    return Moved(attack, noise, apart.mean().item())


def stored_references(setting: Setting) -> dict[str, dict[int, Numbers]]:
    """Return the stored numbers of the reference mechanisms by seed, at exactly this setting; else none."""
    held = json.loads(REFERENCES.read_text(encoding="utf-8")) if REFERENCES.is_file() else {"sets": []}
    for one in held["sets"]:
        if one["setting"] == asdict(setting):
            return {
                name: {int(seed): numbers for seed, numbers in by_seed.items()}
                for name, by_seed in one["networks"].items()
            }
    return {}


def smallest_effects() -> dict[str, float]:
    """Return each probe's smallest effect of interest, in its own units, as it is stored with the references."""
    held = json.loads(REFERENCES.read_text(encoding="utf-8"))
    return {probe: stated["smallest"] for probe, stated in held["of_interest"].items()}


def extend_references(
    data: Dataset,
    setting: Setting,
    names: Sequence[str],
    seeds: int,
    path: Path = REFERENCES,
    *,
    until: float = math.inf,
) -> Iterator[tuple[str, int, Numbers | None]]:
    """Train what a file of references has not yet, one network after another, and write the file after each.

    What was stored stays: an extension that was ended goes on where it stopped. A seed at which a mechanism does not
    come to the loss is stored as missed.

    Args:
        data: The data set that the setting names.
        setting: Of all networks.
        names: Mechanisms, as `find_target` takes them.
        seeds: How many each shall have, from 0.
        path: The file.
        until: When to stop, on the clock of `time.monotonic`.

    Yields:
        The name, the seed and the numbers of each network that was trained; None for one that missed the loss.
    """
    held = json.loads(path.read_text(encoding="utf-8"))
    one = next((one for one in held["sets"] if one["setting"] == asdict(setting)), None)
    if one is None:
        one = {"setting": asdict(setting), "networks": {}}
        held["sets"].append(one)
    missed = one.setdefault("missed", {})
    for name in names:
        make = find_target(name).make
        for seed in range(seeds):
            if str(seed) in one["networks"].get(name, {}) or seed in missed.get(name, []):
                continue
            if time.monotonic() > until:
                return
            start = time.process_time()
            numbers = measure_mechanism(make, data, setting, seed)
            if numbers is None:
                missed.setdefault(name, []).append(seed)
            else:
                numbers = _rounded(numbers | {"seconds": round(time.process_time() - start, 1)})
                one["networks"].setdefault(name, {})[str(seed)] = numbers
            _write_whole(path, references_text(held))
            yield name, seed, numbers


def _rounded(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: _rounded(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_rounded(value) for value in found]
    return float(f"{found:.6g}") if isinstance(found, float) else found


def references_text(held: Mapping[str, Any]) -> str:
    """Return references as JSON with a line a network, so that a change shows what was measured anew."""
    lines: list[str] = []

    def line(numbers: Any) -> str:
        lines.append(json.dumps(numbers))
        return f"@{len(lines) - 1}"

    tree = {**held, "of_interest": {probe: line(said) for probe, said in held["of_interest"].items()}}
    tree["sets"] = [
        {
            name: {m: {seed: line(n) for seed, n in by_seed.items()} for m, by_seed in part.items()}
            if name == "networks"
            else line(part)
            for name, part in one.items()
        }
        for one in held["sets"]
    ]
    return re.sub(r'"@(\d+)"', lambda found: lines[int(found[1])], json.dumps(tree, indent=1)) + "\n"


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(name).chmod(0o644)
    Path(name).replace(path)


def kept(folder: Path, key: str, make: Callable[[], Numbers | None]) -> Numbers | None:
    """Return what was measured before under a key, or measure and keep it: a card goes on where it stopped."""
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))["numbers"]
    numbers = make()
    _write_whole(path, json.dumps({"key": key, "numbers": numbers}))
    return numbers


@dataclass(frozen=True)
class Measured:
    """What a card is made of.

    Attributes:
        target: What was asked for.
        networks: The target's numbers by seed of a mechanism, by batch of a classifier.
        references: The reference mechanisms' numbers, by name and seed.
        missed: Seeds at which the mechanism did not come to the loss.
        left_out: Why a probe is not in it, by probe.
        warnings: What may be wrong with the target.
    """

    target: Target
    networks: dict[int, Numbers]
    references: dict[str, dict[int, Numbers]]
    missed: list[int]
    left_out: dict[str, str]
    warnings: list[str]

    def attack(self, probe: str, name: str | None = None, *, noise: bool = False) -> dict[int, float]:
        """Return one number a seed under a probe, of the target or of a reference."""
        of = self.networks if name is None else self.references[name]
        return {seed: n["probes"][probe][noise] for seed, n in of.items() if probe in n["probes"]}

    def paired(self, probe: str) -> tuple[list[float], list[float]]:
        """Return the target's and softmax's numbers at the seeds that both have; of a classifier none."""
        softmax = self.attack(probe, "softmax") if self.target.kind == "mechanism" else {}
        own = self.attack(probe)
        both = sorted(own.keys() & softmax.keys())
        return [own[s] for s in both], [softmax[s] for s in both]


USUAL: dict[str, dict[str, Any]] = {
    "digits": {},
    # of 600 photographs a network of this size learns too little that holds for others
    "cifar10": {"radius": 2 / 255, "loss": 1.2, "train_size": 2000},
}
"""What a data set's references have in place of the fields of `Setting`; others have 8/255 and 0.4."""


def setting_for(dataset: str, **given: Any) -> Setting:
    """Return the references' setting, with what is given in its place; of a data set other than digits without any.

    Args:
        dataset: Name or path of the data set.
        given: Fields of `Setting`; a number of 0 leaves the field as it is.
    """
    usual = USUAL.get(dataset, {"radius": 8 / 255, "loss": 0.4})
    return Setting(dataset=dataset, **usual | {name: value for name, value in given.items() if value})


def measure_target(
    target: Target, data: Dataset, setting: Setting, seeds: int, folder: Path, weights: str = ""
) -> Measured:
    """Check a target, then train or take it, and measure it; what was measured before is taken from the folder.

    Where there are no stored references at this setting, softmax attention is trained beside a mechanism.

    Args:
        target: See `find_target`.
        data: The data set.
        setting: See `Setting`.
        seeds: Seeds of a mechanism, from 0; disjoint batches of test images of a classifier.
        folder: Where numbers are kept.
        weights: File of a classifier's weights, if any.

    Raises:
        ValueError: If the target is bad, in one line, before anything is trained; or fewer than two seeds come to the
            loss.
    """
    references = stored_references(setting)
    images = hashlib.sha256(data.x_train.numpy().tobytes()).hexdigest()[:16]
    if target.kind == "classifier":
        model = made_classifier(target, weights)
        said = check_classifier(model, target.name, data.x_test, data.y_test, len(data.classes))
        state = hashlib.sha256()
        for tensor in model.state_dict().values():
            state.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())

        def keep(n: int, measure: Callable[[], Numbers]) -> Numbers:
            key = json.dumps([SCHEMA, target.source, state.hexdigest(), asdict(setting), images, seeds, n])
            return cast(Numbers, kept(folder, key, measure))

        batches, left = measure_classifier(model, data, setting, seeds, keep)
        return Measured(target, dict(enumerate(batches)), references, [], left, said)
    if weights:
        raise ValueError(f"weights={weights!r} are for a classifier; a mechanism is trained here")
    check_mechanism_target(target, setting.heads, setting.dim // setting.heads, setting.grid**2 + 1)
    rehearse(target, data, setting)
    wanted = {target.name: target}
    if not references and target.name != "softmax":
        wanted["softmax"] = find_target("softmax")
    found: dict[str, dict[int, Numbers | None]] = {}
    for (name, one), seed in ((item, seed) for item in wanted.items() for seed in range(seeds)):
        stored = references.get(name, {}).get(seed) if one.source == name else None
        key = json.dumps([SCHEMA, one.source, asdict(setting), images, seed])

        def train(one: Target = one, seed: int = seed) -> Numbers | None:
            return measure_mechanism(one.make, data, setting, seed)

        found.setdefault(name, {})[seed] = stored or kept(folder, key, train)
    own = {seed: numbers for seed, numbers in found[target.name].items() if numbers is not None}
    if len(own) < 2:
        raise ValueError(
            f"target={target.name!r} came to the training loss {setting.loss:g} with {len(own)} of {seeds} seeds; "
            "two are needed: raise loss"
        )
    if not references:
        name = "softmax"
        references = {name: {s: n for s, n in found.get(name, found[target.name]).items() if n is not None}}
    missed = [seed for seed, numbers in found[target.name].items() if numbers is None]
    left = {} if all(MAP in numbers["probes"] for numbers in own.values()) else {MAP: NO_MAP}
    return Measured(target, own, references, missed, left, [])


def data_for(words: str) -> Dataset:
    """Return the data set of a card.

    Args:
        words: A name that `load` knows, the path of an `.npz`, or a folder with a folder of images for each class:
            these are made 32 x 32 in colour, and every fifth is a test image.

    Raises:
        ValueError: If it is none of these; one line.
    """
    path = Path(words)
    if path.suffix == ".npz":
        if not path.is_file():
            raise ValueError(f"dataset={words!r} is no file")
        return load(path.stem, path.parent)
    if not path.is_dir():
        return load(words)
    classes = sorted(part.name for part in path.iterdir() if part.is_dir())
    files = [(file, c) for c, name in enumerate(classes) for file in list_images(path / name)]
    if len(classes) < 2 or len(files) < 10:
        raise ValueError(
            f"dataset={words!r} holds {len(files)} images in {len(classes)} folders; one a class is needed"
        )
    images, labels = read_images([file for file, _ in files], 32), torch.tensor([c for _, c in files])
    test = torch.arange(len(labels)) % 5 == 4
    return Dataset(path.name, images[~test], labels[~test], images[test], labels[test], tuple(classes))


def card_json(
    found: Measured, setting: Setting, effects: Mapping[str, tuple[float, float, float]]
) -> dict[str, Any]:
    """Return a card as plain data, of the form that `card_schema.json` beside this module says.

    Args:
        found: What was measured.
        setting: With what.
        effects: By probe, how much more than softmax the target moves: the mean over seeds, and its interval.
    """
    first = next(iter(found.networks.values()))
    probes = {
        name: {
            "attack": list(found.attack(name).values()),
            "noise": list(found.attack(name, noise=True).values()),
            "references": {m: list(found.attack(name, m).values()) for m in found.references},
            "more_than_softmax": dict(zip(("estimate", "low", "high"), effects[name], strict=True))
            if name in effects
            else None,
        }
        for name in first["probes"]
    }
    return {
        "schema": SCHEMA,
        "library": __version__,
        "target": found.target.name,
        "source": found.target.source,
        "kind": found.target.kind,
        "setting": asdict(setting),
        "seeds": list(found.networks),
        "missed": found.missed,
        "accuracy": [n["accuracy"] for n in found.networks.values()],
        "loss": [n["loss"] for n in found.networks.values()],
        "probes": probes,
        "left_out": found.left_out,
        "warnings": found.warnings,
    }
