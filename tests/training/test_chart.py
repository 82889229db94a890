"""Line charts: well-formed SVG, scales, ticks, hostile names."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from frugan.training.chart import HEIGHT, WIDTH, Line, Scale, chart, short, wants_log

SVG = "svg"


def line(values: list[float], name: str = "loss", step: float = 10.0) -> Line:
    return Line(name=name, points=[(step * index, value, value, value) for index, value in enumerate(values)])


def parsed(figure: str) -> ElementTree.Element:
    return ElementTree.fromstring(figure.replace("<li class=plain>", '<li class="plain">'))


def ys(figure: str) -> list[float]:
    points = parsed(figure).findall(".//polyline")[0].attrib["points"]
    return [float(pair.split(",")[1]) for pair in points.split()]


def test_higher_values_are_drawn_higher_and_inside() -> None:
    heights = ys(chart("Losses", [line([1.0, 2.0, 4.0])]))
    assert heights == sorted(heights, reverse=True) and 0 <= heights[-1] < heights[0] <= HEIGHT
    assert (heights[0] - heights[1]) * 2 == pytest.approx(heights[1] - heights[2], abs=0.3)


def test_log_axis_spaces_factors_equally() -> None:
    heights = ys(chart("Losses", [line([1.0, 10.0, 100.0])], log=True))
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.3)
    assert wants_log([line([1.0, 10.0, 100.0])]) and not wants_log([line([0.0, 100.0])])
    assert not wants_log([line([1.0, 2.0])]) and not wants_log([])


@pytest.mark.parametrize("values", [[0.0], [5.0], [1.0, 1.0], [0.0, 0.0], [-3.0, -3.0], [1e-9, 1e9], [1e299]])
@pytest.mark.parametrize("log", [None, False])
def test_any_values_make_a_well_formed_chart(values: list[float], log: bool | None) -> None:
    dotted = Line(name="a", points=line(values).points, dots=True)
    figure = parsed(chart("t", [dotted], log=log, target=0.5 if min(values) > 0 else None))
    for element in figure.iter():
        for key in ("x", "y", "x1", "y1", "cx", "cy", "width"):
            assert math.isfinite(float(element.attrib.get(key, 0)))


def test_a_rare_spike_does_not_flatten_the_rest() -> None:
    values = [1.0 + 0.01 * index for index in range(100)]
    values[50] = 1e6
    heights = ys(chart("t", [line(values)]))
    assert heights[0] - heights[99] > HEIGHT / 3 and min(heights) >= 0


def test_no_points_no_chart() -> None:
    assert chart("t", []) == "" and chart("t", [line([])]) == "" and chart("t", [line([1.0])]) == ""


def test_texts_are_escaped_and_values_told_on_hover() -> None:
    figure = chart("<script>", [line([1.0, 2.5], '<b>"&'), line([3.0, 4.0], "x|y")], note="<i>", marks=[(10.0, "<")])
    assert "<script>" not in figure and "<i>" not in figure.replace("<i></i>", "")
    titles = [element.text for element in parsed(figure).iter("title")]
    assert titles == ['0 images\n<b>"&: 1\nx|y: 3', '10 images\n<b>"&: 2.5\nx|y: 4']
    assert [element.attrib["data-values"] for element in parsed(figure).findall(".//g[@class='hit']")] == [
        "1|3",
        "2.5|4",
    ]
    assert len(parsed(figure).findall(".//g[@class='mark']")) == 1


def test_bands_targets_and_best_points() -> None:
    wide = Line(name="a", points=[(0.0, 1.0, 0.5, 2.0), (5.0, 1.5, 1.0, 2.0)], dots=True)
    figure = parsed(chart("t", [wide], target=0.6, best=(0.0, 1.0)))
    assert len(figure.findall(".//polygon")) == 1 and len(figure.findall(".//circle[@class='best']")) == 1
    assert len(figure.findall(".//line[@class='target']")) == 1


def test_long_lines_have_few_hover_strips() -> None:
    figure = parsed(chart("t", [line([float(index) for index in range(1000)])]))
    strips = figure.findall(".//g[@class='hit']/rect")
    assert len(strips) <= 80
    assert sum(float(strip.attrib["width"]) for strip in strips) == pytest.approx(WIDTH - 62, abs=5)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 400_000.0), (-3.2, 7.9), (0.1, 0.1003), (5e-7, 9e-7)])
def test_linear_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    ticks = Scale(low=low, high=high, start=0.0, end=1.0).ticks()
    assert 3 <= len(ticks) <= 7 and low - 1e-9 <= ticks[0] and ticks[-1] <= high * (1 + 1e-9)


@pytest.mark.parametrize(("low", "high"), [(0.1, 30.0), (1e-6, 1e6), (2.1, 4.9), (0.021, 0.049)])
def test_log_ticks_are_inside(low: float, high: float) -> None:
    ticks = Scale(low=low, high=high, start=0.0, end=1.0, log=True).ticks()
    assert 1 <= len(ticks) <= 7 and all(low * 0.99 <= tick <= high * 1.01 for tick in ticks)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.05, "0.05"), (1500.0, "1.5k"), (2e6, "2M"), (-20_000.0, "-20k"), (3e-5, "3e-05")]
)
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text


def test_curves_that_touch_zero_within_a_stretch_have_no_log_axis() -> None:
    touching = Line(name="p", points=[(0.0, 0.001, 0.0, 0.002), (1.0, 1.0, 0.9, 1.1), (2.0, 5.0, 4.0, 6.0)])
    assert not wants_log([touching])
    assert "<svg" in chart("p", [touching])
