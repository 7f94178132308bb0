"""Figures that one can touch: their numbers are the run's, and in the browser a control moved is a change read."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from faultlines.book import readings
from faultlines.book.touch import FIGURES, insert_touch, table
from faultlines.estimators import (
    sensitivity_ratio,
    softmax_jacobian_bound,
    softmax_jacobian_frobenius,
    softmax_jacobian_gershgorin,
    softmax_jacobian_lower,
    softmax_jacobian_norm,
    softmax_jacobian_trace,
)
from faultlines.notebook.provenance import read_record

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "_touch"


def numbers(chapter: str) -> dict:
    notebook = nbformat.read(ROOT / "chapters" / f"{chapter}.ipynb", as_version=4)
    record, _ = read_record(notebook)
    found = FIGURES[chapter].read(notebook, record)
    assert found is not None
    return found | {"executed": notebook, "record": record}


# what is read from the published runs


def test_layers_read_off_the_figure_agree_with_what_the_run_says():
    found = numbers("differential-attention")
    layers, said = np.array(found["layers"]), found["record"].quoted
    assert len(layers) == int(said["cases"]) and layers[:, 2].sum() == int(said["steeper"])
    assert (layers[:, 0] < 0).sum() == int(said["opposed"])
    middle = np.sort(layers, axis=0)[(len(layers) - 1) // 2]
    assert middle[0] == pytest.approx(float(said["cosine"]), abs=0.006)
    assert middle[1] == pytest.approx(float(said["lambda_rho"]), abs=0.006)


def test_flips_read_off_the_figure_agree_with_table_and_ledger():
    found = numbers("linearized-attention")
    rows = table(found["executed"], "The three interventions")
    row = next(
        row
        for row in rows
        if (row["intervention"], row["kernel"], row["network"]) == ("transformed", "finite", "attention")
    )
    assert found["shares"]["top"]["finite attention"][0] == float(row["flipped"].split()[0])
    assert found["shares"]["attacked"]["finite attention"][0] == float(row["of those attacked"].split()[0])
    for name, single in found["subsets"].items():
        assert np.mean(single) == pytest.approx(found["shares"]["top"][name][0], abs=0.06)
    late = next(row for row in found["record"].ledger if row["claim"] == "C8-ridge")["estimate"]
    top = found["shares"]["top"]
    assert top["infinite attention"][-1] - top["infinite plain"][-1] == pytest.approx(100 * late, abs=0.2)


def test_maps_read_off_the_figure_have_the_correlations_of_its_titles():
    small, large = numbers("attribution-robustness")["nets"]
    # the figure's titles, which are pixels too, say 0.71 and 0.91
    found = [spearmanr(net["map"], net["after"]).statistic for net in (small, large)]
    assert np.allclose(found, [0.71, 0.91], atol=0.005)


def test_looks_read_off_the_figure_are_scaled_to_their_largest_cell():
    found = numbers("ex2l")
    looks = np.array(found["looks"])  # image and objective, epoch, classifier, cell
    assert looks.shape == (4, len(found["moments"]), 2, 64)
    assert looks.max(-1).min() > 0.97 and looks.min() < 0.02
    assert len(found["tables"]["full"]) == len(found["tables"]["patch"]) > 3


def test_markers_are_measured_where_they_were_drawn():
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(4, 3), dpi=220)
    heights = [0.3, 0.52, 0.33, 0.5]  # each pair overlaps
    for height, colour, marker in zip(heights, ["#0072B2", "#D55E00"] * 2, "ooss", strict=True):
        ax.plot([1, 2], [height, height / 2], marker + "-", color=colour, markersize=4)
    ax.set(xlim=(0, 3), ylim=(0, 1))
    ax.spines[["top", "right"]].set_visible(False)
    fig.canvas.draw()
    pixels = np.asarray(fig.canvas.buffer_rgba())[..., :3].astype(float)
    box = ax.get_window_extent()
    plt.close(fig)
    axes = readings.Axes(box.x0, box.x1, pixels.shape[0] - box.y1, pixels.shape[0] - box.y0)
    (seen,) = readings.panels(pixels)
    assert abs(seen.left - axes.left) <= 1 and abs(seen.bottom - axes.bottom) <= 1
    layers = [("#0072B2", "o"), ("#D55E00", "o"), ("#0072B2", "s"), ("#D55E00", "s")]
    found = readings.stacked_markers(pixels, axes, axes.left + (axes.right - axes.left) / 3, layers)
    read = (axes.bottom - np.array(found)) / (axes.bottom - axes.top)
    assert np.abs(read - heights).max() < 0.006


def test_two_maps_over_an_image_are_taken_apart():
    from matplotlib import colormaps

    rng = np.random.default_rng(0)
    under, maps = rng.uniform(0, 255, (16, 16)), rng.uniform(0, 1, (2, 4, 4))
    drawn = np.repeat(under[..., None], 3, axis=2)
    for one, name in zip(maps, ("Blues", "Reds"), strict=True):
        opacity = 0.75 * np.kron(one, np.ones((4, 4)))[..., None]
        drawn = drawn * (1 - opacity) + 255 * np.array(colormaps[name](1 / 1.3)[:3]) * opacity
    first, second, error = readings.two_maps(drawn, under, 4)
    assert np.allclose(first, maps[0], atol=1e-6) and np.allclose(second, maps[1], atol=1e-6) and error < 1e-6


def test_a_page_without_the_numbers_goes_without_the_figure(tmp_path: Path):
    notebook = nbformat.read(ROOT / "chapters" / "ex2l.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == "fig-ex-grid":
            cell.outputs = []
    before = len(notebook.cells)
    assert insert_touch(notebook, "ex2l", "chapters-ex2l", notebook, tmp_path) is None
    assert len(notebook.cells) == before
    assert insert_touch(notebook, "crossover", "chapters-crossover", notebook, tmp_path) is None


def test_the_scripts_weigh_little_and_ask_for_nothing():
    files = [path for path in SCRIPTS.iterdir() if path.suffix in (".js", ".css")]
    assert sum(path.stat().st_size for path in files) < 400_000
    for path in files:
        if path.name != "d3.min.js":
            assert "http" not in path.read_text(encoding="utf-8")


# in the browser

spec = importlib.util.spec_from_file_location(
    "pages_in_a_browser", Path(__file__).with_name("test_browser.py")
)
shared = importlib.util.module_from_spec(spec)
try:
    spec.loader.exec_module(shared)
except pytest.skip.Exception:
    pytest.skip("no selenium", allow_module_level=True)
site, browser = shared.site, shared.browser
By, Keys = shared.By, shared.Keys
READ = "return {...document.querySelector('.fl-touch').dataset}"


def opened(browser, address: str, size: str = "desktop", theme: str = "light"):
    """Open a page, go to its figure and return it when it is there."""
    shared.resize(browser, size)
    browser.get("about:blank")
    browser.get(address)
    shared.paint(browser, theme)
    (place,) = browser.find_elements(By.CSS_SELECTOR, ".fl-touch")
    assert place.get_attribute("data-state") == "waiting", "it loads before the reader is there"
    state = browser.execute_async_script(
        """const [place, done] = arguments;
        window.scrollBy(0, 2);
        place.scrollIntoView();
        const state = () => place.dataset.state;
        const look = () => ['ready', 'failed'].includes(state()) ? done(state()) : setTimeout(look, 50);
        look();""",
        place,
    )
    assert state == "ready"
    return place


def said(place) -> list[str]:
    return [line.text for line in place.find_elements(By.CSS_SELECTOR, "[role=status]")]


def named(place, name: str):
    return place.find_element(By.CSS_SELECTOR, f"[name={name}], [data-name={name}]")


def picked(place, name: str, value: str) -> None:
    place.find_element(By.CSS_SELECTOR, f"[data-name={name}][value='{value}']").click()


def dragged(browser, element, to: tuple[float, float]) -> None:
    """Press on the middle of an element, and let go at shares of its width and height from there."""
    box = element.rect
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    actions = shared.webdriver.ActionChains(browser, duration=50)
    actions.move_to_element(element).click_and_hold()
    actions.move_by_offset(round(to[0] * box["width"]), round(to[1] * box["height"])).release().perform()


@pytest.mark.browser
@pytest.mark.parametrize("chapter", FIGURES)
def test_a_figure_comes_with_its_reader_and_is_light(browser, site, chapter: str):
    shared.failures(browser)
    for size, theme in (("desktop", "light"), ("phone", "dark")):
        place = opened(browser, f"{site}chapters/{chapter}.html", size, theme)
        parts = browser.execute_script(
            "return performance.getEntriesByType('resource')"
            ".map(e => [e.name.split('/').pop().split('?')[0], e.decodedBodySize])"
        )
        own = {
            name: weight for name, weight in parts if "touch" in name or name.startswith(("d3", "chapters-"))
        }
        assert len(own) == 6 and sum(own.values()) < 1_500_000, own
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= shared.SIZES[size][0]
        assert not shared.serious(browser)
        small = browser.execute_script(
            "return [...arguments[0].querySelectorAll('text, label, output, legend, p')]"
            ".filter(e => e.textContent.trim())"
            ".map(e => [e.textContent.slice(0, 30), parseFloat(getComputedStyle(e).fontSize)"
            " * (e.ownerSVGElement ? Math.hypot(e.getScreenCTM().a, e.getScreenCTM().b) : 1)])"
            ".filter(([, size]) => size < 9)",
            place,
        )
        assert not small
        for control in place.find_elements(By.CSS_SELECTOR, "input, select, button, [role=slider]"):
            assert control.accessible_name, control.get_attribute("outerHTML")
    assert not shared.failures(browser)


@pytest.mark.browser
def test_a_row_of_softmax_is_moved(browser, site):
    place = opened(browser, f"{site}chapters/softmax-lipschitz.html")
    before = said(place)
    named(place, "p1").send_keys(Keys.ARROW_RIGHT * 10)
    handle = place.find_element(By.CSS_SELECTOR, ".fl-touch-handle")
    rows = [browser.execute_script(READ)["row"]]
    assert float(rows[0].split()[0]) == pytest.approx(0.7) and said(place) != before
    handle.send_keys(Keys.ARROW_UP * 4)
    rows.append(browser.execute_script(READ)["row"])
    dragged(browser, handle.find_element(By.CSS_SELECTOR, ".fl-touch-ring"), (3.0, -2.0))
    rows.append(browser.execute_script(READ)["row"])
    named(place, "two").click()
    rows.append(browser.execute_script(READ)["row"])
    assert len(set(rows)) == 4
    shown = {e.get_attribute("data-name"): float(e.get_attribute("data-value"))
             for e in place.find_elements(By.CSS_SELECTOR, "[data-value]")}  # fmt: skip
    assert shown["norm"] == pytest.approx(0.5) and shown["g1"] == pytest.approx(0.5)
    # the formulas of the page, held against the library's
    more = np.random.default_rng(0).dirichlet([0.5] * 3, 60).tolist() + [[1, 0, 0], [1 / 3] * 3]
    rows = [[float(x) for x in row.split()] for row in rows] + more
    found = browser.execute_script("return arguments[0].map(p => faultlinesTouch.softmax(p))", rows)
    p = torch.tensor(rows, dtype=torch.float64)
    for name, estimate in {
        "norm": softmax_jacobian_norm, "g1": softmax_jacobian_bound, "lower": softmax_jacobian_lower,
        "frobenius": softmax_jacobian_frobenius, "gershgorin": softmax_jacobian_gershgorin,
        "trace": softmax_jacobian_trace,
    }.items():  # fmt: skip
        assert np.allclose([v[name] for v in found], estimate(p).numpy(), atol=1e-12), name


@pytest.mark.browser
def test_the_ratio_of_theorem_2_is_moved(browser, site):
    place = opened(browser, f"{site}chapters/differential-attention.html")
    seen = []

    def look(gamma: float) -> None:
        now = browser.execute_script(READ)
        ratio, cosine, product = (float(now[name]) for name in ("ratio", "cosine", "product"))
        assert ratio == pytest.approx(sensitivity_ratio(gamma, product, cosine).item(), rel=1e-9)
        seen.append((ratio, *said(place)))

    gamma = numbers("differential-attention")["gamma"]
    look(gamma)
    for name in ("angle", "lambda", "rho"):
        named(place, name).send_keys(Keys.ARROW_LEFT * 6)
        look(gamma)
    named(place, "gamma").send_keys(Keys.ARROW_RIGHT * 12)
    look(gamma + 0.12)
    handle = place.find_element(By.CSS_SELECTOR, ".fl-touch-handle")
    handle.send_keys(Keys.ARROW_UP * 3)
    look(gamma + 0.12)
    dragged(browser, handle.find_element(By.CSS_SELECTOR, ".fl-touch-ring"), (-2.0, 1.0))
    look(gamma + 0.12)
    named(place, "next").send_keys(Keys.ENTER)
    look(gamma + 0.12)
    assert "Layer 1 of" in seen[-1][1] and len(set(seen)) == len(seen)


@pytest.mark.browser
def test_the_ridge_and_the_width_are_moved(browser, site):
    found = numbers("linearized-attention")
    place = opened(browser, f"{site}chapters/linearized-attention.html")

    def look(at: int, kind: str, question: str) -> None:
        now = browser.execute_script(READ)
        assert float(now["ridge"]) == found["ridges"][at]
        for arm in ("attention", "plain"):
            assert float(now[arm]) == found["shares"][question][f"{kind} {arm}"][at]
            assert f"{now[arm]} %" in said(place)[0]

    look(0, "finite", "top")
    named(place, "ridge").send_keys(Keys.ARROW_RIGHT)
    look(1, "finite", "top")
    picked(place, "width", "infinite")
    look(1, "infinite", "top")
    picked(place, "question", "attacked")
    look(1, "infinite", "attacked")
    dragged(browser, place.find_element(By.CSS_SELECTOR, ".fl-touch-wide svg"), (0.35, 0.0))
    look(3, "infinite", "attacked")


@pytest.mark.browser
def test_animals_and_looks_are_chosen(browser, site):
    found = numbers("ex2l")
    place = opened(browser, f"{site}chapters/ex2l.html")
    for label in found["classes"]:
        for where in found["places"]:
            tile = place.find_element(By.CSS_SELECTOR, f"input[value='{label} {where}']")
            browser.execute_script("arguments[0].click()", tile)
            known = [label, where] in found["trained"]
            assert ("so it is in training" in said(place)[0]) == known
    first = place.find_element(By.CSS_SELECTOR, "input[name=fl-touch-animal]:checked")
    first.send_keys(Keys.ARROW_LEFT)
    assert browser.execute_script(READ)["animal"] == f"{found['classes'][-1]} {found['places'][-2]}"
    picked(place, "kind", "patch")
    row = found["tables"]["patch"][-1]
    shared.Select(named(place, "method")).select_by_value(row["method"])
    assert place.find_element(By.CSS_SELECTOR, "[data-name=WGA]").text == f"{float(row['WGA']):.2f}"

    def look(image: int, penalty: int, at: int) -> None:
        now = browser.execute_script(READ)
        one, two = np.array(found["looks"][2 * penalty + image][at])
        same = one @ two / math.sqrt(float(one @ one) * float(two @ two))
        assert float(now["similarity"]) == pytest.approx(same) and f"{same:.2f}" in said(place)[1]
        assert int(now["epoch"]) == found["moments"][at]

    last = len(found["moments"]) - 1
    look(0, 0, last)
    named(place, "epoch").send_keys(Keys.ARROW_LEFT)
    look(0, 0, last - 1)
    picked(place, "penalty", "1")
    look(0, 1, last - 1)
    picked(place, "image", "1")
    look(1, 1, last - 1)
    picked(place, "layer", "label")
    assert not place.find_element(By.CSS_SELECTOR, ".fl-touch-look-background").is_displayed()


@pytest.mark.browser
def test_a_map_is_attacked_pixel_by_pixel(browser, site):
    found = numbers("attribution-robustness")
    place = opened(browser, f"{site}chapters/attribution-robustness.html")
    for k in (10, 12):
        now = browser.execute_script(READ)
        assert int(now["k"]) == k
        for n, net in enumerate(found["nets"]):
            before, after = (
                set(sorted(range(64), key=lambda i: (-net[of][i], i))[:k]) for of in ("map", "after")
            )
            assert int(now[f"kept{n}"]) == len(before & after)
            assert float(now[f"rho{n}"]) == pytest.approx(spearmanr(net["map"], net["after"]).statistic)
        named(place, "k").send_keys(Keys.ARROW_RIGHT * 2)
    attacked = said(place)
    named(place, "eps").send_keys(Keys.ARROW_LEFT)
    assert browser.execute_script(READ)["on"] == "0" and said(place) != attacked
    pixel = int(browser.execute_script(READ)["pixel"])
    pads = place.find_elements(By.CSS_SELECTOR, ".fl-touch-pad")
    pads[0].send_keys(Keys.ARROW_UP if pixel >= 8 else Keys.ARROW_DOWN)
    assert abs(int(browser.execute_script(READ)["pixel"]) - pixel) == 8
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", pads[1])
    shared.webdriver.ActionChains(browser, duration=50).move_to_element_with_offset(pads[1], 5, 5).perform()
    assert int(browser.execute_script(READ)["pixel"]) == 4 * 8 + 4
    step = named(place, "step")
    step.send_keys(Keys.HOME)
    for name in ("attacked", "other images", "corrected"):
        shown = place.find_element(By.CSS_SELECTOR, f"[data-name='{name}']").text
        assert float(shown) == pytest.approx(float(found["table"][0][name]), abs=0.005)


@pytest.mark.browser
@pytest.mark.parametrize("chapter", FIGURES)
def test_a_figure_works_from_the_disk(browser, site, chapter: str):
    place = opened(browser, (shared.HTML / "chapters" / f"{chapter}.html").as_uri())
    control = place.find_elements(By.CSS_SELECTOR, "input[type=range]")[0]
    control.send_keys(Keys.HOME)
    before = browser.execute_script(READ)
    control.send_keys(Keys.END)
    assert json.dumps(browser.execute_script(READ)) != json.dumps(before)
    browser.get("about:blank")
    shared.failures(browser)  # a page from the disk is none of the server's
