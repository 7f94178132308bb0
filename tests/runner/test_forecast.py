"""A forecast comes from records and from how parts grow, and says what it rests on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.chapters import CLAIMING
from tests.cli.test_app import call
from tests.conftest import ROW

from faultlines.notebook.chapters import Chapter
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.runs import Runs
from faultlines.notebook.store import read_result
from faultlines.runner.forecast import Forecast, Measured, Model, errors, exponents, fit
from faultlines.runner.growth import REST, GrowthFile, computed, passes, vit

ROOT = Path(__file__).parents[2]
BOOK = Project(ROOT, ROOT / "lib" / "faultlines")
GROWTH = GrowthFile.load(BOOK)
CHAPTERS = {name: chapter for name, chapter in Chapter.all(BOOK).items() if name in CLAIMING}
SEED_BOUND = {
    "softmax-lipschitz": "trainings and attacks",
    "linearized-attention": "malleability",
    "differential-attention": "trainings, angles and attacks",
    "ex2l": "trainings",
    "attribution-robustness": "transformers",
    "crossover": "trainings and probes",
}
SEEDS = ("seeds", "few_seeds", "tuning_seeds")
TOY = """\
devices:
  cpu: {calls: 1, work: 1, watts: 10, basis: one core}
  h100: {calls: 1, work: 100, watts: 700, basis: assumed}
chapters:
  toy: {parts: {sums: {claims: ["C*"], work: seeds * len(rates)}}, memory: seeds}
"""

each_chapter = pytest.mark.parametrize("name", CHAPTERS)


def published(name: str) -> list[Measured]:
    """The runs of a chapter that came with the checkout and have all parameters that its growth speaks of."""
    found = []
    for run in ("smoke", "default", "desk"):
        record = read_result(BOOK.published(run, name)).provenance
        if record.parameters.keys() == {parameter.name for parameter in CHAPTERS[name].parameters}:
            found.append(Measured.of(run, record, GROWTH.chapters[name]))
    return found


def more_seeds(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {**parameters, **{name: 2 * parameters[name] for name in SEEDS if name in parameters}}


@each_chapter
def test_twice_the_seeds_take_twice_as_long_where_seeds_are_all(name: str) -> None:
    runs, part = published(name), SEED_BOUND[name]
    assert len(runs) >= 2
    model = Model.fitted(GROWTH.chapters[name], runs[:2])
    for run in runs:
        once = model.seconds(run.parameters)[part]
        assert once > 0
        assert model.seconds(more_seeds(run.parameters))[part] == pytest.approx(2 * once)


@each_chapter
def test_growth_speaks_of_claims_and_parameters_that_there_are(name: str) -> None:
    growth, runs = GROWTH.chapters[name], Runs.load(BOOK)
    claims = {row["claim"] for row in read_result(BOOK.published("default", name)).ledger}
    assert {growth.part_of(claim) for claim in claims} == set(growth.parts), (
        "a part of no claim, or the reverse"
    )
    for run in runs.runs:
        if runs.covers(run, CHAPTERS[name]):
            parameters = runs.parameters(run, CHAPTERS[name])
            parts = [e for part in growth.parts.values() for e in (part.calls, part.work)]
            assert all(computed(e, parameters) >= 0 for e in [*parts, growth.memory, growth.kept])


@each_chapter
def test_a_fit_gives_back_the_runs_that_it_was_made_from(name: str) -> None:
    runs = published(name)[:2]
    model = Model.fitted(GROWTH.chapters[name], runs)
    for run in runs:
        assert sum(model.seconds(run.parameters).values()) == pytest.approx(run.wall_s, rel=0.4)


def test_the_paper_runs_are_more_than_the_rehearsals() -> None:
    runs = Runs.load(BOOK)
    rehearsed = {name: chapter for name, chapter in CHAPTERS.items() if runs.covers("rehearsal", chapter)}
    assert rehearsed
    for name, chapter in rehearsed.items():
        model = Model.fitted(GROWTH.chapters[name], published(name)[:2])
        paper, rehearsal = (model.seconds(runs.parameters(run, chapter)) for run in ("paper", "rehearsal"))
        assert sum(paper.values()) > 10 * sum(rehearsal.values()), name


def test_factors_are_those_that_made_the_seconds() -> None:
    assert fit([(1, 1, 4), (1, 2, 6), (1, 5, 1)], [12.0, 18.0, 12.0]) == pytest.approx((1, 2, 2.25), abs=2)
    assert fit([(0, 3.0), (0, 9.0)], [6.0, 18.0]) == pytest.approx((0, 2))
    assert fit([(1, 3.0)], [0.0]) == (0, 0)
    assert min(fit([(1, 1.0), (1, 2.0)], [4.0, 2.0])) >= 0


def test_a_power_is_that_of_the_expression() -> None:
    growth = {"n": 30, "seeds": 4, "epochs": 10, "first_seed": 300, "name": "digits"}
    found = exponents(lambda p: computed("seeds * (n ** 2 + passes(epochs, 0.0))", p), growth)
    assert found["seeds"] == 1 and found["n"] == pytest.approx(2, abs=0.05) and 0 < found["epochs"] < 0.1
    assert "first_seed" not in found


def test_a_transformer_of_twice_the_depth_multiplies_almost_twice_as_often() -> None:
    assert vit((3, 32, 32), 4, 192, 8) == pytest.approx(2 * vit((3, 32, 32), 4, 192, 4), rel=0.02)
    assert vit((3, 32, 32), 2, 192, 4) > 4 * vit((3, 32, 32), 4, 192, 4)
    assert passes(10, [0.0]) > passes(10, [1.0]) >= 1


def test_a_run_left_out_shows_how_far_the_others_are_off() -> None:
    growth = GrowthFile.model_validate({
        "devices": {}, "chapters": {"toy": {"parts": {"sums": {"claims": ["C1"], "work": "n"}}, "memory": "n"}},
    }).chapters["toy"]  # fmt: skip
    runs = [
        Measured(str(n), {"n": n}, {"sums": n * f, REST: 0.0}, 5.0) for n, f in ((10, 1), (20, 1), (40, 2))
    ]
    found = errors(growth, runs)
    assert found["40"] == pytest.approx(2) and found["10"] < 1
    assert errors(growth, runs[:1]) == {}


@pytest.fixture
def grown(checkout: Project) -> Project:
    (checkout.root / "growth.yml").write_text(TOY)
    return checkout


def test_a_forecast_is_printed_with_its_basis(grown: Project, put: Callable[..., Path]) -> None:
    put(wall_s=90.0, ledger=[{**ROW, "cost_s": 50.0}], kernel={"device": "CPU, x", "peak_memory_mb": 900})
    status, out, err = call("forecast", "toy", "--run", "desk")
    assert (status, err) == (0, "")
    # 5 seeds of one rate took 50 s, 8 of two take 160; the other 40 s stay as they are
    assert out.startswith("toy · desk on cpu: 3 min 20 s") and "900 MiB of memory" in out
    assert "seeds ^ 1" in out and "made from default (1 min 30 s)" in out
    assert "smoke (missing)" in out and "from one run alone" in out and "device: one core" in out
    assert (
        "toy · desk+seeds=16 on cpu: 6 min" in call("forecast", "toy", "--run", "desk", "-p", "seeds=16")[1]
    )
    put("desk", wall_s=100.0, kernel={"device": "CPU, x"})
    assert (
        "it took 1 min 40 s on CPU, x: the forecast is off by +100 %"
        in call("forecast", "toy", "--run", "desk")[1]
    )


def test_a_device_makes_work_faster_and_draws_what_it_draws(grown: Project, put: Callable[..., Path]) -> None:
    put(wall_s=50.0, ledger=[{**ROW, "cost_s": 50.0}], kernel={"device": "CPU, x"})
    judge = Freshness(grown, Runs.load(grown))
    slow, fast = (
        Forecast.of(judge, RunSpec(Chapter.all(grown)["toy"], "desk"), on) for on in ("cpu", "h100")
    )
    assert slow.seconds["sums"] == pytest.approx(100 * fast.seconds["sums"]) == pytest.approx(160)
    assert fast.watts == 700 and "assumed" in fast.basis[-1]


def test_resumed_and_stale_runs_are_no_basis(grown: Project, put: Callable[..., Path]) -> None:
    put(kernel={"device": "CPU, x"})
    put("smoke", resumed=True, kernel={"device": "CPU, x"})
    assert "smoke (resumed)" in call("forecast", "toy", "--run", "desk")[1]
    put("smoke", modules={"faultlines": {"x": "0"}}, kernel={"device": "CPU, x"})
    assert "smoke (stale)" in call("forecast", "toy", "--run", "desk")[1]


USAGE = {
    "an unknown chapter": (["tot"], "unknown chapter 'tot': it is one of toy"),
    "an unknown run": (["toy", "--run", "dusk"], "unknown run 'dusk': it is one of default, smoke, desk, paper"),
    "a run that the chapter has not": (["toy"], "toy has no run 'paper'"),
    "an unknown device": (
        ["toy", "--run", "desk", "--device", "h1000"], "unknown device 'h1000': it is one of cpu, h100",
    ),
    "an unknown parameter": (["toy", "--run", "desk", "-p", "sedes=3"], "did you mean 'seeds'?"),
    "nothing measured": (["toy", "--run", "desk"], "no run of toy was measured (default is missing, smoke is missing)"),
}  # fmt: skip


@pytest.mark.parametrize("case", USAGE)
def test_what_cannot_be_forecast_is_said_in_a_line(grown: Project, case: str) -> None:
    words, complaint = USAGE[case]
    status, out, err = call("forecast", *words)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1 and complaint in err


BROKEN = {
    "no file": (None, "there is no growth.yml"),
    "no YAML": ("devices: [", "growth.yml cannot be read"),
    "a key that is none": (TOY.replace("work: seeds", "wrok: seeds"), "growth.yml cannot be read"),
    "another chapter": (TOY.replace("toy", "other"), "does not say how toy grows: it has other"),
    "a name that is none": (
        TOY.replace("seeds * len", "sedes * len"),
        "'sedes * len(rates)' cannot be computed",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_growth_file_is_said_in_a_line(grown: Project, put: Callable[..., Path], case: str) -> None:
    put(kernel={"device": "CPU, x"})
    text, complaint = BROKEN[case]
    (grown.root / "growth.yml").unlink()
    if text is not None:
        (grown.root / "growth.yml").write_text(text)
    status, out, err = call("forecast", "toy", "--run", "desk")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1 and complaint in err
