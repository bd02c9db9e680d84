import re
from xml.etree import ElementTree

from tunesmith.evaluate import svg
from tunesmith.evaluate.svg import Row, Series

NAMES = {"title": "A <plot> & more", "description": "what it shows"}
NS = "{http://www.w3.org/2000/svg}"


def points(plot, css):
    found = [e for e in ElementTree.fromstring(plot).iter() if css in e.get("class", "").split()]
    return [[tuple(map(float, p.split(","))) for p in e.get("points").split()] for e in found if e.get("points")]


def test_plots_are_well_formed_and_described():
    plot = svg.lines([Series("loss", [(0, 1), (1, 2), (2, 0)])], **NAMES, x_label="<step>", y_label="y")
    root = ElementTree.fromstring(plot)
    assert root.find(f"{NS}title").text == "A <plot> & more" and root.find(f"{NS}desc").text == "what it shows"
    assert root.get("role") == "img" and "<step>" not in plot and "&lt;step&gt;" in plot


def test_up_is_up_and_right_is_right():
    (line,) = points(svg.lines([Series("a", [(0, 0), (1, 5), (2, 10)])], **NAMES, x_label="x", y_label="y"), "line")
    xs, ys = zip(*line, strict=True)
    assert xs[0] < xs[1] < xs[2] and ys[0] > ys[1] > ys[2]
    assert xs[1] - xs[0] == xs[2] - xs[1]


def test_bands_hold_their_line_and_gaps_are_left_out():
    plot = svg.lines([Series("a", [(0, 1), (1, float("nan")), (2, 2)], [(0, 2), (0, 0), (1, 4)])], **NAMES,
                     x_label="x", y_label="y")
    (line,), (band,) = points(plot, "line"), points(plot, "band")
    assert len(line) == 2 and len(band) == 4
    assert min(y for _, y in band) < min(y for _, y in line) and max(y for _, y in band) > max(y for _, y in line)


def test_long_lines_get_a_running_mean():
    zigzag = [(n, n % 2) for n in range(200)]
    faint, mean = points(svg.lines([Series("a", zigzag)], **NAMES, x_label="x", y_label="y"), "line")
    assert max(y for _, y in mean[10:-10]) - min(y for _, y in mean[10:-10]) < 0.2 * (
        max(y for _, y in faint) - min(y for _, y in faint))


def test_intervals_lie_on_their_axis():
    plot = svg.intervals([Row("PPO", .75, .7, .8, "75%"), Row("<b>", 0.5, float("-inf"), float("inf"))], **NAMES)
    root = ElementTree.fromstring(plot)
    dots = [float(e.get("cx")) for e in root.iter(f"{NS}circle")]
    assert dots == [14 + .75 * 372, 14 + .5 * 372]
    ends = [[float(x) for x in re.findall(r"[MH]([\d.]+)", e.get("d"))] for e in root.iter(f"{NS}path")]
    assert ends[0][:2] == [round(14 + .7 * 372, 1), round(14 + .8 * 372, 1)]
    assert ends[1][:2] == [14, 386]
    assert "<b>" not in plot


def test_ticks_are_round():
    assert svg._ticks(0, 1) == [0, .2, .4, .6, .8, 1]
    assert svg._ticks(-0.7, 1.6) == [-.5, 0, .5, 1, 1.5]
    assert svg._ticks(1, 40) == [10, 20, 30, 40]


def test_constant_and_empty_series_draw_nothing_strange():
    for s in ([(0, 1.0), (1, 1.0)], [(3, -2.0)], []):
        for draw in (svg.lines, svg.scatter):
            ElementTree.fromstring(draw([Series("a", s)], **NAMES, x_label="x", y_label="y"))
            assert "nan" not in draw([Series("a", s)], **NAMES, x_label="x", y_label="y")
