"""Charts put values where their axes say, at any size that a float has."""

import re
import xml.etree.ElementTree as ET
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facever.report import charts
from facever.report.charts import BOTTOM, LEFT, RIGHT, TOP, Axes

LARGEST = 3.4e38
values = st.lists(st.floats(-LARGEST, LARGEST), min_size=1, max_size=20)
positive = st.lists(st.floats(1e-300, LARGEST), min_size=1, max_size=20)


@given(values)
def test_an_even_axis_holds_all_values_in_order_between_a_few_ticks(found):
    scale = charts.linear(found, room=charts.ROOM)
    places = scale(sorted(found))
    assert ((places >= 0) & (places <= 1)).all()
    assert (np.diff(places) >= 0).all()
    assert 1 <= len(scale.ticks) <= 7


@given(positive)
def test_a_fitting_axis_holds_all_positive_values_and_has_ticks(found):
    scale = charts.fitting(found)
    places = scale(sorted(found))
    assert ((places >= 0) & (places <= 1)).all()
    assert (np.diff(places) >= 0).all()
    assert 1 <= len(scale.ticks) <= 8


def test_ticks_are_round_and_written_with_the_decimals_they_need():
    assert [text for _, text in charts.linear([0, 1]).ticks] == ["0.0", "0.2", "0.4", "0.6",
                                                                "0.8", "1.0"]  # fmt: skip
    assert [text for _, text in charts.linear([-2000, 8000]).ticks][:2] == ["-2,000", "0"]
    assert [text for _, text in charts.linear([15.5, 16.5], whole=True).ticks] == ["16"]
    assert [text for _, text in charts.logarithmic([1e-5, 1]).ticks][:3] == [
        "10⁻⁵",
        "10⁻⁴",
        "0.001",
    ]


def test_equal_factors_are_equal_lengths_on_a_logarithmic_axis():
    assert charts.logarithmic([1, 1000])([1, 10, 100, 1000]) == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_normal_scores_give_a_straight_line_on_deviate_axes():
    scale, thresholds = charts.deviate(0.001, 0.98), np.linspace(-1, 2, 9)
    fmr = [1 - NormalDist(0).cdf(threshold) for threshold in thresholds]
    fnmr = [NormalDist(1).cdf(threshold) for threshold in thresholds]
    slopes = np.diff(scale(fnmr)) / np.diff(scale(fmr))
    assert slopes == pytest.approx(np.full(8, -1))
    assert scale([0, 1]).tolist() == [0, 1]


def test_marks_lie_where_the_axes_put_them():
    axes = Axes(charts.linear([0, 10]), charts.linear([0, 4]))
    assert axes.places([0, 10, 5], [0, 4, 2]).tolist() == [
        [LEFT, BOTTOM], [RIGHT, TOP], [(LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2]
    ]  # fmt: skip
    assert f"M{LEFT:.1f} {BOTTOM:.1f}L{RIGHT:.1f} {TOP:.1f}" in axes.line("c0", [0, 10], [0, 4])
    assert f"translate({RIGHT:.1f} {TOP:.1f})" in axes.dot("ink", 10, 4)
    assert axes.line("c0", [], []) == ""


def test_a_chart_is_well_formed_and_escapes_its_words():
    words = "<b>\"'&"
    axes = Axes(charts.linear([0, 1]), charts.linear([0, 1]))
    svg = axes.svg([axes.text(0, 0, words)], x=words, y=words, label=words)
    root = ET.fromstring(svg)
    assert root.get("aria-label") == words
    assert sum(text.text == words for text in root) == 3


def test_a_long_curve_is_thinned_to_means():
    x = np.arange(10_000.0)
    thin_x, thin_y = charts.thinned(x, 2 * x)
    assert thin_x.size <= charts.POINTS
    assert thin_y == pytest.approx(2 * thin_x)
    assert thin_x.mean() == pytest.approx(x.mean(), rel=0.01)
    first, last = charts.every_so_many(x)[0][[0, -1]]
    assert (first, last) == (0, 9999)


def test_series_are_told_apart_by_colour_and_then_by_kind_of_line():
    kinds = [charts.colour(i) for i in range(18)]
    assert len(set(kinds)) == 18
    assert all(re.fullmatch(r"c[0-5] d[0-2]", kind) for kind in kinds)
