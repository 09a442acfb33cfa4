import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image
from test_report import Page

from facever.errors import StorageError
from facever.report import laboratory
from facever.report.canvas import INK, Picture

HOSTILE = '<script>alert("x")</script> $\\frac{ & id="a" url(#b)'
RNG = np.random.default_rng(0)
EPOCHS = np.arange(5)


def texts(picture):
    """Texts of a picture, each as it is read; the SVG is parsed as XML."""
    return texts_of(picture.svg())


def texts_of(svg):
    root = ET.fromstring(svg.replace("xlink:href", "href"))
    return ["".join(node.itertext()).strip() for node in root.iter("text")]


def two_seeds(*values):
    return [(EPOCHS, np.array(values) + shift) for shift in (-0.5, 0.5)]


def embeddings(dim, classes=3, images=40):
    y = np.arange(images) % classes
    prototypes = RNG.normal(size=(classes, dim))
    return prototypes[y] + 0.1 * RNG.normal(size=(images, dim)), y, prototypes


def angles():
    return tuple(RNG.normal(centre, 0.1, 200) for centre in (0.8, 1.5))


def pictures_of(label):
    """One picture of each kind, of a loss and classes of this name."""
    quality, norm = RNG.random((2, 60))
    faces = RNG.integers(0, 255, (3, 8, 8, 3), dtype=np.uint8)
    grid = [((m,), [m, 2 * m]) for m in (0.1, 0.2)]
    plane = np.linspace(0, np.pi, 9), np.linspace(1, 5, 4), RNG.random((4, 9))
    return [
        laboratory.curves("curves", label, {label: two_seeds(5, 3, 4, 6, 7)}, label, "min"),
        laboratory.embedding_maps({label: embeddings(2)}, [label, "b", "c"]),
        laboratory.angle_histograms({label: (angles(), angles())}),
        laboratory.gradient_planes({label: plane}, boundary=1.2),
        laboratory.quality_scatter({label: (quality, norm, quality, 0.5, 0.25)}),
        laboratory.augmented_share({label: (norm, quality < 0.3)}),
        laboratory.samples(faces, [label, "b", "c"], [label, "c", "c"]),
        laboratory.sweep("sweep", label, {label: grid}, [label], label, "min"),
    ]


@pytest.fixture(scope="module")
def pictures():
    return pictures_of(HOSTILE)


@pytest.fixture(scope="module")
def page(pictures, tmp_path_factory):
    path = laboratory.write_comparison(
        tmp_path_factory.mktemp("page") / "new" / "page.html",
        title=HOSTILE,
        facts=[("data", HOSTILE), ("seeds", "3")],
        header=["loss", "EER, %"],
        rows=[[HOSTILE, "3.21"], ["ce", "4.56"]],
        notes=[HOSTILE],
        sections=[(HOSTILE, pictures[:4]), ("other", pictures[4:]), ("empty", [])],
    )
    return path.read_text()


def test_the_page_shows_the_facts_the_table_and_every_picture(page, pictures):
    parsed = Page(page)
    for text in ("seeds", "EER, %", "3.21", "4.56", "other", *(p.caption for p in pictures)):
        assert text in parsed.text, text
    assert parsed.tags.count("svg") == len(pictures)
    assert parsed.tags.count("table") == 1
    assert parsed.tags.count("h2") == 3, "a section without pictures is left out"


def test_the_page_fetches_nothing_and_runs_nothing(page):
    parsed = Page(page)
    assert not {"script", "link", "iframe", "img"} & set(parsed.tags)
    assert len(parsed.ids) == len(set(parsed.ids))
    for key, value in parsed.attributes:
        assert not key.startswith("on")
        assert key not in ("src", "href", "xlink:href") or (
            value.startswith("data:image/png;base64,") or value[1:] in parsed.ids
        )
        assert key == "aria-label" or "http" not in value
        if key in ("clip-path", "style") and "url(" in value:
            assert re.search(r"url\(#(.*?)\)", value)[1] in parsed.ids


def test_hostile_labels_are_text_wherever_they_appear(page):
    assert "<script" not in page
    assert Page(page).text.count(HOSTILE) >= 8
    assert "&lt;script&gt;" in page


def test_wide_pictures_scroll_on_a_phone_and_text_follows_the_page(page):
    assert '<figure class="broad"><div class="wide"><div style="min-width:' in page
    assert "prefers-color-scheme: dark" in page
    assert "currentColor" in page
    assert INK not in page
    assert not re.search(r'<svg[^>]* width="', page)


def test_pictures_are_written_as_png_of_their_size_and_are_not_blank(pictures, tmp_path):
    paths = laboratory.write_pictures(pictures, tmp_path / "a" / "b")
    assert [path.name for path in paths] == [f"{picture.name}.png" for picture in pictures]
    assert sorted(paths) == sorted((tmp_path / "a" / "b").iterdir())
    for path, picture in zip(paths, pictures, strict=True):
        with Image.open(path) as image:
            expected = np.array(picture.size) * 150
            assert np.abs(np.array(image.size) - expected).max() <= 1
            pixels = np.asarray(image.convert("RGB"))
            assert (pixels[0, 0] == 255).all(), "readable on white"
            assert (pixels != 255).any(-1).mean() > 0.01
            assert "Software" not in image.info


def test_one_input_gives_the_same_bytes(page, pictures):
    scatter, augmented = pictures[1], pictures[5]
    assert scatter.svg() in page
    assert augmented.png() == augmented.png()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        laboratory.write_pictures([], tmp_path / "file" / "folder")


@pytest.mark.parametrize(("mark", "value"), [("min", "3.25"), ("max", "7.5")])
def test_the_extreme_of_the_mean_over_seeds_is_marked(mark, value):
    """The longer seed alone holds the last epochs, where the mean is its value."""
    short = EPOCHS[:3], np.array([5.0, 2.5, 6.0])
    long = EPOCHS, np.array([5.0, 4.0, 6.0, 6.5, 7.5])
    series = {"ce": [short, long], "absent": []}
    shown = texts(laboratory.curves("c", "caption", series, "EER, %", mark))
    assert f"ce  {value}" in shown
    assert value in shown
    assert not any("absent" in text for text in shown)


def test_eighteen_losses_are_told_apart_by_colour_and_line():
    series = {f"loss {i}": two_seeds(*(EPOCHS + i)) for i in range(18)}
    (axes,) = drawn(laboratory.curves("c", "caption", series, "loss", "min")).axes
    lines = [line for line in axes.lines if line.get_label().startswith("loss")]
    assert len(lines) == 18
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 18


def test_a_logarithmic_axis_has_plain_numbers_and_wants_positive_values():
    falling = {"ce": [(EPOCHS, 10.0 ** (2 - EPOCHS))]}
    assert {"0.1", "100"} <= set(texts(laboratory.curves("c", "", falling, "y", "min", log=True)))
    crossing = {"ce": [(EPOCHS, EPOCHS - 2.0)]}
    assert "100" not in texts(laboratory.curves("c", "", crossing, "y", "min", log=True))


def test_two_dimensions_show_rays_and_more_show_principal_components():
    panels = {"flat": embeddings(2), "deep": embeddings(8)}
    svg = laboratory.embedding_maps(panels, ["zero", "one", "two"]).svg()
    shown = texts_of(svg)
    z, _, _ = panels["deep"]
    assert "flat" in shown
    assert shown.count("zero") == 2, "at the end of its ray and in the legend"
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    spectrum = np.linalg.svd(unit - unit.mean(0), compute_uv=False) ** 2
    assert f"{spectrum[:2].sum() / spectrum.sum():.0%} of variance" in " ".join(shown)
    assert svg.count("data:image/png") == 2, "points are pixels, the rest is not"


def test_the_ten_classes_with_the_most_images_are_shown():
    y = np.repeat(np.arange(-1, 12), [50, 1, 2, *range(10, 20)])
    z = RNG.normal(size=(y.size, 4))
    names = [f"class {k}" for k in range(12)]
    shown = texts(laboratory.embedding_maps({"ce": (z, y, None)}, names))
    assert [text for text in shown if text.startswith("class")] == names[2:]


def test_sub_centres_each_have_a_ray():
    z, y, prototypes = embeddings(2)
    several = np.stack([prototypes, -prototypes], axis=1)
    shown = texts(laboratory.embedding_maps({"ce": (z, y, several)}, ["zero", "one", "two"]))
    assert shown.count("zero") == 3


def test_a_collapsed_encoder_still_has_a_map():
    z = np.ones((20, 4))
    shown = texts(laboratory.embedding_maps({"ce": (z, np.arange(20) % 2, None)}, ["a", "b"]))
    assert "0% of variance" in shown


def test_gradient_planes_share_one_colour_scale_and_are_in_degrees():
    angle, norm = np.linspace(0, np.pi / 2, 10), np.array([1.0, 2.0])
    panels = {name: (angle, norm, np.full((2, 10), top)) for name, top in (("a", 0.5), ("b", 1.0))}
    picture = laboratory.gradient_planes(panels, boundary=np.pi / 4)
    assert texts(picture).count("gradient scaling |g|") == 1
    *planes, _ = drawn(picture).axes
    assert {plane.collections[0].get_clim() for plane in planes} == {(0, 1)}
    for plane in planes:
        assert plane.get_xlim() == pytest.approx((-5, 95))
        assert plane.lines[0].get_xdata()[0] == pytest.approx(45)


def test_the_share_of_augmented_images_is_by_tenth_of_the_norm():
    norm = RNG.permutation(100).astype(float)
    figure = drawn(laboratory.augmented_share({"ce": (norm, norm < 25)}))
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([100, 100, 50] + 7 * [0])
    assert axes.lines[0].get_ydata()[0] == pytest.approx(25)


def test_wrong_samples_come_first_and_at_most_twenty_four_are_shown():
    images = np.stack([np.full((4, 4, 3), i, dtype=np.uint8) for i in range(30)])
    true = [f"t{i}" for i in range(30)]
    predicted = [name if i % 10 else "wrong" for i, name in enumerate(true)]
    figure = drawn(laboratory.samples(images, true, predicted))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:4] == ["t0 → wrong", "t10 → wrong", "t20 → wrong", "t1 → t1"]
    assert len(titles) == 24
    assert figure.axes[1].images[0].get_array().max() == 10
    frames = [axes.spines["left"].get_linewidth() for axes in figure.axes]
    assert min(frames[:3]) > max(frames[3:]) == 0


def test_a_sweep_over_one_parameter_says_where_the_best_mean_is():
    grid = [((0.5,), [4.0]), ((0.1,), [3.0, 5.0]), ((0.3,), [1.0, 2.0])]
    shown = texts(laboratory.sweep("s", "", {"ce": grid}, ["h"], "EER, %", "min"))
    assert "ce  1.5 at 0.3" in shown
    assert [text for text in shown if text in ("0.1", "0.3", "0.5")] == ["0.1", "0.3", "0.5"]


def test_a_sweep_over_two_parameters_is_a_heat_map_with_its_best_field_ringed():
    grid = [((h, m), [h + m, h + m + 1]) for h in (0.1, 0.2) for m in (1, 2, 3)][:-1]
    picture = laboratory.sweep("s", "", {"a": grid, "b": grid}, ["h", "m"], "EER, %", "max")
    axes = drawn(picture).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("h", "m")
    assert axes.images[0].get_array().filled(-1) == pytest.approx(
        np.array([[1.6, 1.7], [2.6, 2.7], [3.6, -1]])
    )
    ringed = [text.get_text() for text in axes.texts if text.get_bbox_patch()]
    assert ringed == ["3.6\n3.1 to 4.1"]


def test_pictures_of_one_name_cannot_share_a_page(tmp_path):
    picture = Picture("twice", "", lambda figure: None)
    with pytest.raises(AssertionError, match="share a name"):
        laboratory.write_comparison(
            tmp_path / "p.html", title="", facts=[], header=[], rows=[], notes=[],
            sections=[("a", [picture]), ("b", [picture])],
        )  # fmt: skip


@pytest.mark.parametrize("name", ["", "../up", "a b", "<b>", ".hidden"])
def test_a_picture_is_named_as_a_file(name):
    with pytest.raises(AssertionError):
        Picture(name, "", lambda figure: None)


def test_heavy_scatters_become_pixels_of_limited_weight():
    norm = RNG.random(20_000)
    picture = laboratory.quality_scatter({"ce": (norm, norm, RNG.random(20_000), 1.0, 0.0)})
    svg = picture.svg()
    assert len(svg) < 250_000
    assert svg.count("data:image/png") == 2


def drawn(picture):
    from matplotlib.figure import Figure

    figure = Figure(figsize=picture.size)
    picture.draw(figure)
    return figure
