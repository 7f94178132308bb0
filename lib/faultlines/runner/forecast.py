r"""What a run will take, before it starts: fitted to runs that were measured, and to how their parts grow.

`growth.yml` says of every chapter into which parts its seconds fall, which claims are charged with a part, and how many
calls (small operations that wait for their start) and multiplications a part makes, as expressions of the
parameters. Its seconds are taken to be $a \cdot \text{calls} + b \cdot \text{multiplications}$; $a, b \ge 0$ come
from records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from faultlines.notebook.errors import UsageError, one_of
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.provenance import Provenance, duration
from faultlines.notebook.run_spec import RunSpec
from faultlines.runner.growth import REST, Device, Growth, GrowthFile, computed, counts

MIB = 2**20


@dataclass(frozen=True)
class Measured:
    """An executed run.

    Attributes:
        run: Its name.
        parameters: Its parameters.
        seconds: What it took, by part.
        memory_mib: The most memory that its process held.
        disk_mib: Size of its notebook.
        watts: What the processors drew; None where the machine does not tell.
    """

    run: str
    parameters: Mapping[str, Any]
    seconds: Mapping[str, float]
    memory_mib: float
    disk_mib: float = 1.0
    watts: float | None = None

    @classmethod
    def of(cls, run: str, record: Provenance, growth: Growth, disk_mib: float = 1.0) -> Measured:
        """Return what a record says."""
        seconds = dict.fromkeys([*growth.parts, REST], 0.0)
        for row in record.ledger:
            seconds[growth.part_of(row["claim"])] += row["cost_s"]
        seconds[REST] += max(0.0, record.wall_s - sum(seconds.values()))
        watts = None if record.energy_j is None else record.energy_j / record.wall_s
        memory = float(record.kernel.get("peak_memory_mb") or 0)
        return cls(run, record.parameters, seconds, memory, disk_mib, watts)

    @property
    def wall_s(self) -> float:
        """Seconds in all."""
        return sum(self.seconds.values())


def fit(rows: Sequence[Sequence[float]], taken: Sequence[float]) -> tuple[float, ...]:
    """Return the factors, none of them negative, with the least relative errors.

    Args:
        rows: What the factors multiply, by run.
        taken: What was measured.

    Example:
        >>> [round(factor, 6) for factor in fit([(1, 10), (1, 20)], [25.0, 45.0])]
        [5.0, 2.0]
    """
    from scipy.optimize import nnls

    matrix, values = np.array(rows, float), np.array(taken, float)
    kept = values > 0
    if not kept.any():
        return (0.0,) * matrix.shape[1]
    scaled = matrix[kept] / values[kept, None]
    unit = np.where(scaled.max(axis=0) > 0, scaled.max(axis=0), 1.0)
    return tuple((nnls(scaled / unit, np.ones(kept.sum()))[0] / unit).tolist())


@dataclass(frozen=True)
class Model:
    """Costs of a chapter, fitted to runs.

    Attributes:
        growth: How they grow.
        factors: Seconds at any size, of a call and of a multiplication, by part.
        rest: Seconds of what no claim is charged with: at any size, and a second of the parts.
        base_mib: Memory that a run of any size holds.
        disk_mib: Size of a notebook.
    """

    growth: Growth
    factors: Mapping[str, tuple[float, ...]]
    rest: tuple[float, ...]
    base_mib: float
    disk_mib: float

    @classmethod
    def fitted(cls, growth: Growth, runs: Sequence[Measured]) -> Model:
        """Fit to measured runs."""
        start = float(len(runs) > 2)  # two runs cannot tell what is the same at any size from what grows
        factors = {
            name: fit(
                [(start, *counts(part, run.parameters)) for run in runs], [run.seconds[name] for run in runs]
            )
            for name, part in growth.parts.items()
        }
        others = [run.wall_s - run.seconds[REST] for run in runs]
        return cls(
            growth,
            factors,
            fit([(1.0, other) for other in others], [run.seconds[REST] for run in runs]),
            max(0.0, float(np.median([r.memory_mib - numbers_mib(growth.memory, r.parameters) for r in runs]))),
            max(run.disk_mib for run in runs),
        )  # fmt: skip

    def seconds(self, parameters: Mapping[str, Any], device: Device | None = None) -> dict[str, float]:
        """Return the seconds of every part, on a core like the measured one or on a device."""
        calls, work = (device.calls, device.work) if device else (1.0, 1.0)
        found = {}
        for name, part in self.growth.parts.items():
            (start, a, b), (n, m) = self.factors[name], counts(part, parameters)
            found[name] = start + a * n / calls + b * m / work
        found[REST] = self.rest[0] + self.rest[1] * sum(found.values())
        return found

    def memory_mib(self, parameters: Mapping[str, Any]) -> float:
        """Return the most memory that is held."""
        return self.base_mib + numbers_mib(self.growth.memory, parameters)

    def on_disk_mib(self, parameters: Mapping[str, Any]) -> float:
        """Return what lies on disk at the end of the last training."""
        return self.disk_mib + numbers_mib(self.growth.kept, parameters)


def numbers_mib(expression: str, parameters: Mapping[str, Any]) -> float:
    """Return the size of so many numbers of four bytes."""
    return 4 * computed(expression, parameters) / MIB


def errors(growth: Growth, runs: Sequence[Measured]) -> dict[str, float]:
    """Return, for every run, what it took over what the others forecast of it."""
    found = {}
    for run in runs if len(runs) > 1 else ():
        model = Model.fitted(growth, [other for other in runs if other is not run])
        found[run.run] = run.wall_s / max(1e-9, sum(model.seconds(run.parameters).values()))
    return found


def exponents(cost: Callable[[Mapping[str, Any]], float], parameters: Mapping[str, Any]) -> dict[str, float]:
    """Return with which power of each whole number a cost grows where the parameters are; those that move it.

    Example:
        >>> exponents(lambda p: p["seeds"] * p["n"] ** 2, {"seeds": 3, "n": 10, "first": 7})
        {'seeds': 1.0, 'n': 2.0}
    """
    here, found = cost(parameters), {}
    for name, value in parameters.items():
        if type(value) is int and value > 0 and here > 0:
            power = float(np.log2(cost({**parameters, name: 2 * value}) / here))
            if abs(power) > 0.005:
                found[name] = round(power, 2)
    return found


def measured_runs(judge: Freshness, task: RunSpec, growth: Growth) -> tuple[list[Measured], dict[str, str]]:
    """Return the runs of a chapter that a forecast rests on, and why others were left out.

    The run that is asked for is never among them, nor is one that other code made, that went on from trainings of an
    execution that was ended, or that was not on a CPU.
    """
    runs: list[Measured] = []
    left_out: dict[str, str] = {}
    for run in judge.runs.runs:
        if not judge.runs.covers(run, task.chapter) or run == task.run:
            continue
        state = judge.state(RunSpec(task.chapter, run))
        if state.result is None or state.name != "fresh":
            left_out[run] = state.name
            continue
        record = state.result.provenance
        if record.resumed or not str(record.kernel.get("device", "")).startswith("CPU"):
            left_out[run] = "resumed" if record.resumed else "not on a CPU"
        else:
            runs.append(Measured.of(run, record, growth, state.result.path.stat().st_size / MIB))
    return runs, left_out


@dataclass(frozen=True)
class Forecast:
    """What a run will take.

    Attributes:
        task: The run.
        device: Name of the device.
        seconds: Seconds by part.
        powers: With which power of which parameter each part grows there.
        low: What the run may take, over what is forecast.
        high: The same, at most.
        memory_mib: The most memory that its process will hold.
        disk_mib: What will lie on disk.
        watts: What it will draw.
        basis: What all this rests on, in lines.
    """

    task: RunSpec
    device: str
    seconds: dict[str, float]
    powers: dict[str, dict[str, float]]
    low: float
    high: float
    memory_mib: float
    disk_mib: float
    watts: float
    basis: list[str]

    @classmethod
    def of(cls, judge: Freshness, task: RunSpec, device: str | None = None) -> Forecast:
        """Forecast a run.

        Args:
            judge: Says what was measured.
            task: The run.
            device: A device of `growth.yml`; by default `h100` for a run on a GPU, else `cpu`.

        Raises:
            UsageError: If `growth.yml` has no such device or chapter, or nothing was measured.
        """
        book = GrowthFile.load(judge.project)
        chapter, parameters = task.chapter.name, task.parameters(judge.runs)
        device = device or ("h100" if str(parameters.get("device", "")).startswith("cuda") else "cpu")
        if device not in book.devices:
            raise one_of("device", device, list(book.devices))
        if chapter not in book.chapters:
            raise UsageError(
                f"growth.yml does not say how {chapter} grows: it has {', '.join(book.chapters)}; add its parts there"
            )
        growth, on = book.chapters[chapter], book.devices[device]
        runs, left_out = measured_runs(judge, task, growth)
        if not runs:
            why = ", ".join(f"{run} is {state}" for run, state in left_out.items())
            raise UsageError(
                f"no run of {chapter} was measured ({why}): `faultlines run {chapter}` gives a forecast its basis"
            )
        model, ratios = Model.fitted(growth, runs), errors(growth, runs)
        seconds = model.seconds(parameters, on)

        def cost_of(name: str) -> Callable[[Mapping[str, Any]], float]:
            return lambda changed: model.seconds(changed, on)[name]

        powers = {name: exponents(cost_of(name), parameters) for name in seconds}
        watts = [run.watts for run in runs if run.watts is not None]
        return cls(
            task, device, seconds, powers, min([1.0, *ratios.values()]), max([1.0, *ratios.values()]),
            model.memory_mib(parameters), model.on_disk_mib(parameters),
            max(watts) if watts and device == "cpu" else on.watts,
            list(_basis(runs, left_out, ratios, on)) + list(_taken(judge, task, sum(seconds.values()))),
        )  # fmt: skip

    @property
    def summary(self) -> str:
        """The forecast in a line."""
        total = sum(self.seconds.values())
        low, high = (duration(total * factor) for factor in (self.low, self.high))
        size = [
            f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"
            for mib in (self.memory_mib, self.disk_mib)
        ]
        return (
            f"{self.task.chapter.name} · {self.task.label} on {self.device}: {duration(total)} ({low} to {high}),"
            f" {size[0]} of memory, {size[1]} on disk, {total * self.watts / 3.6e6:.2g} kWh"
        )


def _basis(
    runs: Sequence[Measured], left_out: Mapping[str, str], ratios: Mapping[str, float], device: Device
) -> Iterator[str]:
    yield "made from " + ", ".join(f"{run.run} ({duration(run.wall_s)})" for run in runs)
    if left_out:
        yield "left out: " + ", ".join(f"{run} ({why})" for run, why in left_out.items())
    if ratios:
        each = ", ".join(f"{run} took {ratio:.2g}" for run, ratio in ratios.items())
        yield f"each run against a forecast from the others, of which the range is made: {each} times as long"
    else:
        yield "from one run alone: how far it may be off is not known"
    yield f"device: {device.basis}"


def _taken(judge: Freshness, task: RunSpec, forecast: float) -> Iterator[str]:
    state = judge.state(task)
    if state.result is not None and state.name in ("fresh", "stale") and not state.result.provenance.resumed:
        record = state.result.provenance
        code = "" if state.name == "fresh" else ", by an earlier version of the code"
        error = f"{100 * (forecast / record.wall_s - 1):+.0f} %"
        where = f"{duration(record.wall_s)} on {record.kernel.get('device')}{code}"
        yield f"it took {where}: the forecast is off by {error}"
