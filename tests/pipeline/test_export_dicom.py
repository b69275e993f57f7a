"""Maps and outlines of a DICOM slide as DICOM objects, read back by pydicom alone, and where it can by wsidicom."""

from __future__ import annotations

import math
import re
import shlex
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.command import vitrail
from helpers.data import DATA, needs_data
from helpers.mapped import Reds
from helpers.mapped import settings as mapped_settings
from helpers.results import COLUMNS, OUTLINES, ROWS, SCALE, TUMOR, classes, saliency, write_map, write_results

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
pytest.importorskip("highdicom", reason="highdicom is not installed")

from helpers import dicom  # noqa: E402 - needs pydicom
from vitrail.classes import CLASSES  # noqa: E402
from vitrail.errors import ExchangeError  # noqa: E402
from vitrail.inference.map_slide import Networks  # noqa: E402
from vitrail.interop import dicom_annotations  # noqa: E402
from vitrail.interop.class_map import CLASS_CHANNELS, read_class_map  # noqa: E402
from vitrail.interop.dicom_annotations import rings_of  # noqa: E402
from vitrail.interop.dicom_maps import PADDING, Placed, write_segmentation  # noqa: E402
from vitrail.interop.dicom_objects import ObjectSource  # noqa: E402
from vitrail.interop.dicom_source import read_dicom_slide  # noqa: E402
from vitrail.pipeline import predict_slides  # noqa: E402
from vitrail.pipeline.export_dicom import export_dicom  # noqa: E402
from vitrail.pipeline.predict_slides import Application, apply_models  # noqa: E402
from vitrail.pipeline.run import new_run  # noqa: E402
from vitrail.slides.slide import open_slide, read_region  # noqa: E402

NAME = "S24 Präparat"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dicom")
    slide = dicom.write_slide(folder / "series")
    outcome = export_dicom(write_results(folder / "maps", NAME, f"{NAME}.dcm"), slide, folder / "out")
    return folder, outcome


def read(folder, ending):
    return pydicom.dcmread(folder / "out" / f"{NAME}.{ending}.dcm")


def decoded(ds):
    """Decode the frames by pydicom, and lay them out as PS3.3 C.7.6.17.3 has them: `[channels, rows, columns]`."""
    frames = ds.pixel_array.reshape(-1, ds.Rows, ds.Columns)
    down, across = (-(-ds.TotalPixelMatrixRows // ds.Rows), -(-ds.TotalPixelMatrixColumns // ds.Columns))
    grid = frames.reshape(-1, down, across, ds.Rows, ds.Columns).transpose(0, 1, 3, 2, 4)
    planes = grid.reshape(len(grid), down * ds.Rows, across * ds.Columns)
    return planes[:, : ds.TotalPixelMatrixRows, : ds.TotalPixelMatrixColumns]


def edges_mm(ds, left, top, right, bottom):
    """Corners of a box of an image's pixels in the slide's frame of reference (PS3.3, C.7.6.2.1.1), in mm."""
    origin = ds.TotalPixelMatrixOriginSequence[0]
    start = np.array([origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem], float)
    along, down = (np.array(ds.ImageOrientationSlide, float)[at : at + 2] for at in (0, 3))
    between_rows, between_columns = ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing

    def at(x, y):  # positions are of the centres of pixels
        return start + along * between_columns * (x - 0.5) + down * between_rows * (y - 0.5)

    return np.array([at(left, top), at(right, bottom)])


def test_the_slide_is_one(exported):
    folder, _ = exported
    slide = open_slide(folder / "series" / f"{NAME}.dcm")
    assert (slide.mpp, slide.region.width, slide.region.height) == (dicom.MPP, dicom.WIDTH, dicom.HEIGHT)
    pixels = read_region(slide, slide.region, (dicom.WIDTH, dicom.HEIGHT)).astype(int)
    assert np.abs(pixels - dicom.picture()).mean() < 2


def test_probabilities_come_back_at_every_level(exported):
    folder, _ = exported
    expected = np.rint(classes() * 255).astype(np.uint8)
    segmentation = read(folder, "segmentation.0")
    assert (decoded(segmentation) == expected.transpose(2, 0, 1)).all()
    assert segmentation.SegmentationType == "FRACTIONAL"
    assert segmentation.SegmentationFractionalType == "PROBABILITY"
    assert segmentation.MaximumFractionalValue == 255
    names = [segment.SegmentLabel for segment in segmentation.SegmentSequence]
    assert names == [*(label.title for label in CLASSES), "Artefact"]
    coded = [segment.SegmentedPropertyTypeCodeSequence[0].CodeValue for segment in segmentation.SegmentSequence]
    assert coded == ["108369006", "17621005", "85756007", "125040", "47973001"]
    coarser = read(folder, "segmentation.1")
    blocks = expected.astype(int).reshape(240, 2, 320, 2, -1).sum((1, 3))
    assert (decoded(coarser) == ((blocks + 2) // 4).transpose(2, 0, 1)).all()
    assert coarser.PyramidUID == segmentation.PyramidUID
    assert coarser.SeriesInstanceUID == segmentation.SeriesInstanceUID
    assert coarser.SOPInstanceUID != segmentation.SOPInstanceUID


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_rectangle_of_tumor_lies_where_it_is_in_millimetres(exported, level):
    folder, _ = exported
    ds = read(folder, f"segmentation.{level}")
    tumor = decoded(ds)[0] > 127
    rows, columns = (np.flatnonzero(tumor.any(axis)) for axis in (1, 0))
    corners = edges_mm(ds, columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    # by hand: rows run down -y, columns along -x (the helper's orientation), 2 um a pixel, the first centre at (20, 40)
    left, top, right, bottom = TUMOR.bounds
    expected = [(20 - (y - 0.5) * 0.002, 40 - (x - 0.5) * 0.002) for x, y in ((left, top), (right, bottom))]
    assert corners == pytest.approx(np.array(expected), abs=1e-6)


def test_a_map_of_the_slides_own_pixels_lies_on_them(exported, tmp_path):
    folder, _ = exported
    values = np.zeros((dicom.HEIGHT, dicom.WIDTH, 4), np.float32)
    values[96:160, 80:240, 0] = 1
    write_map(tmp_path / "S.classes.ome.tiff", values, dicom.MPP, CLASS_CHANNELS)
    source = ObjectSource(slide=read_dicom_slide(folder / "series"), digest="ab" * 32)
    placed = Placed(stored=read_class_map(tmp_path / "S.classes.ome.tiff"), scale=1.0)
    ds = pydicom.dcmread(write_segmentation(tmp_path, "S", placed, source)[0])
    assert (decoded(ds)[0] == values[..., 0] * 255).all()
    rectangle = edges_mm(read(folder, "segmentation.0"), COLUMNS.start, ROWS.start, COLUMNS.stop, ROWS.stop)
    assert edges_mm(ds, 80, 96, 240, 160) == pytest.approx(rectangle, abs=1e-6)


def test_saliency_comes_back_as_it_is(exported):
    folder, _ = exported
    ds = read(folder, "grad-cam.0")
    values, (plane,) = saliency()[..., 0], decoded(ds)
    looked_at = np.isfinite(values)
    assert (plane[looked_at] == values[looked_at]).all()
    assert (plane[~looked_at] == np.float32(PADDING)).all()
    assert ds.FloatPixelPaddingValue == PADDING
    (mapping,) = ds.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    assert mapping.DoubleFloatRealWorldValueFirstValueMapped == -2.5
    assert mapping.DoubleFloatRealWorldValueLastValueMapped == 1.5
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue == "130403"
    assert edges_mm(ds, 0, 0, 256, 192) == pytest.approx(edges_mm(read(folder, "segmentation.0"), 0, 0, 640, 480))
    assert (decoded(read(folder, "hr-cam.0"))[0][looked_at] == 0).all()


def points(group):
    """Coordinates of each outline of a group, as PS3.3 C.37.1.2 has them."""
    flat = np.frombuffer(group.PointCoordinatesData, "<f4").reshape(-1, 2)
    if group.GraphicType == "RECTANGLE":
        return flat.reshape(-1, 4, 2)
    starts = (np.frombuffer(group.LongPrimitivePointIndexList, "<i4") - 1) // 2
    return np.split(flat, starts[1:])


def test_outlines_come_back_with_their_measurements(exported):
    folder, outcome = exported
    (nuclei,) = read(folder, "nuclei").AnnotationGroupSequence
    first, second = points(nuclei)
    assert shapely.Polygon(first).equals(OUTLINES[0])
    assert shapely.Polygon(second).area == pytest.approx(OUTLINES[1].area, rel=1e-6)
    assert nuclei.AnnotationPropertyTypeCodeSequence[0].CodeValue == "84640000"
    area = next(m for m in nuclei.MeasurementsSequence if m.ConceptNameCodeSequence[0].CodeMeaning == "Area")
    (item,) = area.MeasurementValuesSequence
    assert np.frombuffer(item.FloatingPointValues, "<f4").tolist() == [45.5]
    assert np.frombuffer(item.AnnotationIndexList, "<i4").tolist() == [1]
    assert area.MeasurementUnitsCodeSequence[0].CodeValue == "um2"
    tumor, rest = read(folder, "tiles").AnnotationGroupSequence
    assert (tumor.AnnotationGroupLabel, rest.AnnotationGroupLabel) == ("Tumor tiles", "Non-tumor tiles")
    assert points(tumor)[0].tolist() == [[128, 64], [192, 64], [192, 128], [128, 128]]
    probability = tumor.MeasurementsSequence[0]
    assert probability.ConceptNameCodeSequence[0].CodeMeaning == "Tumor probability"
    assert np.frombuffer(probability.MeasurementValuesSequence[0].FloatingPointValues, "<f4") == 0.875
    names = [each.ConceptNameCodeSequence[0].CodeMeaning for each in nuclei.MeasurementsSequence]
    assert {"Area", "Tumor probability", "Relevance: Grad-CAM", "Relevance: HR-CAM"} == set(names)
    regions = read(folder, "regions").AnnotationGroupSequence
    assert shapely.Polygon(points(regions[0])[0]).equals(TUMOR)
    assert sum(shapely.Polygon(ring).area for ring in points(regions[1])) * 4 == pytest.approx(
        (320 * 500 - 80 * 200 - 10 * 20) * (SCALE * 2) ** 2, rel=0.01
    )
    assert (outcome.results["nuclei"], outcome.results["tiles"]) == (2, 2)
    assert all(Path(file).is_file() for file in outcome.results["files"])


def test_objects_are_the_patients_and_tell_who_made_them(exported):
    folder, outcome = exported
    for file in outcome.results["files"]:
        ds = pydicom.dcmread(file)
        assert (str(ds.PatientName), ds.PatientID, ds.StudyInstanceUID) == (dicom.PATIENT, "P-4711", dicom.STUDY)
        assert ds.SpecimenDescriptionSequence[0].SpecimenIdentifier == "S24-0001-A"
        assert ds.get("FrameOfReferenceUID", dicom.FRAME) == dicom.FRAME
        assert (ds.ContentDate, ds.ContentTime) == ("20240103", "131415")
        assert "InstanceCreationDate" not in ds
        uids = [str(e.value) for e in ds.iterall() if e.VR == "UI" and str(e.value).startswith("2.25.")]
        assert uids
        assert all(len(uid) <= 64 for uid in uids)
    (segment, *_) = read(folder, "segmentation.0").SegmentSequence
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert algorithm.AlgorithmName == "Vitrail"
    said = " ".join([*outcome.lines, *outcome.warnings])
    assert "Secret" not in said


def test_the_same_bytes_twice_from_a_file_and_from_its_folder(exported, tmp_path):
    folder, outcome = exported
    again = export_dicom(folder / "maps", folder / "series", tmp_path)
    assert len(again.results["files"]) == len(outcome.results["files"])
    for one, other in zip(outcome.results["files"], again.results["files"], strict=True):
        assert Path(one).read_bytes() == Path(other).read_bytes(), one


def test_wsidicom_reads_the_annotations(exported):
    wsidicom = pytest.importorskip("wsidicom", reason="wsidicom is not installed")
    folder, _ = exported
    (instance,) = wsidicom.AnnotationInstance.open([folder / "out" / f"{NAME}.nuclei.dcm"])
    (group,) = instance.groups
    first, second = group.annotations
    assert set(first.geometry.to_coords()) == {(104, 100), (104, 103.25), (100.5, 103.25), (100.5, 100)}
    assert (group.label, group.type_code.meaning, len(group.annotations)) == ("Nuclei", "Nucleus", 2)
    values = [{each.code.meaning: each.value for each in nucleus.measurements} for nucleus in (first, second)]
    assert (values[0]["Area"], values[0]["Tumor probability"]) == (45.5, 0.25)
    assert values[0]["Relevance: Grad-CAM"] == saliency()[50, 51, 0]
    assert set(values[1]) == {"Relevance: Grad-CAM", "Relevance: HR-CAM"}  # of what it lacks it says nothing


def test_the_label_is_never_opened_for_its_pixels(exported, tmp_path):
    """With a label cut off behind its header the export is the same."""
    folder, outcome = exported
    (tmp_path / "series").mkdir()
    for file in (folder / "series").iterdir():
        content = file.read_bytes()
        if file.name == "3.dcm":
            content = content[: content.index(b"\xe0\x7f\x10\x00")]
        (tmp_path / "series" / file.name).write_bytes(content)
    again = export_dicom(folder / "maps", tmp_path / "series", tmp_path / "out")
    assert len(again.results["files"]) == len(outcome.results["files"])
    label = export_dicom(folder / "maps", tmp_path / "series" / "3.dcm", tmp_path / "out")
    assert len(label.results["files"]) == len(outcome.results["files"])


def refusal(*arguments):
    with pytest.raises(ExchangeError) as error:
        export_dicom(*arguments)
    assert "Secret" not in str(error.value)
    return str(error.value)


def test_what_predict_leaves_of_a_dicom_slide_goes_back(tmp_path, monkeypatch):
    """The stand-in network's probability of tumor is the red of the slide, which rises from left to right."""
    slide, engines = dicom.write_slide(tmp_path / "series"), Networks(segmenter=Reds("segmenter", side_um=70))
    monkeypatch.setattr(predict_slides, "load_networks", lambda _: (engines, ["a"], []))
    job = Application(segmenter=tmp_path / "any", out=tmp_path / "maps", settings=mapped_settings())
    assert apply_models([slide], job).skipped == []
    outcome = export_dicom(tmp_path / "maps", tmp_path / "series", tmp_path / "out")
    ds = pydicom.dcmread(next(file for file in outcome.results["files"] if file.endswith("segmentation.0.dcm")))
    tumor, scale = decoded(ds)[0].astype(float), 70 / 32 / dicom.MPP
    columns = np.arange(int(60 / scale), int(440 / scale))  # within the tissue, which is 50 to 450
    middle = tumor[int(100 / scale) : int(300 / scale), columns]
    expected = 120 + (columns + 0.5) * scale / 6
    assert np.abs(middle.mean(0) - expected).max() < 3
    left, right = edges_mm(ds, 0, 0, 0, 0)[0], edges_mm(ds, columns[-1], 0, columns[-1], 0)[0]
    assert np.hypot(*(right - left)) == pytest.approx(columns[-1] * 70 / 32 / 1e3)


def test_the_slides_of_a_run_are_known_by_their_file(exported, tmp_path):
    folder, outcome = exported
    (tmp_path / "S.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    slide = folder / "series" / f"{NAME}.dcm"
    (tmp_path / "slides.csv").write_text(f"slide_id,patient_id,slide,annotations\nS,P,{slide},S.geojson\n")
    new_run(tmp_path / "run", tmp_path / "slides.csv", "quick")
    maps = tmp_path / "run" / "predictions" / "maps"
    maps.mkdir(parents=True)
    for file in (folder / "maps").iterdir():
        (maps / file.name.replace(NAME, "S")).symlink_to(file)
    again = export_dicom(tmp_path / "run", folder / "series", tmp_path / "out", nuclei=False)
    assert len(again.results["files"]) == len(outcome.results["files"]) - 1
    assert (tmp_path / "out" / "S.segmentation.0.dcm").is_file()
    with pytest.raises(ExchangeError, match="has no results of the slide"):
        export_dicom(tmp_path / "run", dicom.write_slide(tmp_path / "other"), tmp_path / "out")


def test_too_many_nuclei_are_refused(exported, tmp_path, monkeypatch):
    folder, _ = exported
    monkeypatch.setattr(dicom_annotations, "MOST_COORDINATES", 20)
    assert "--no-nuclei" in refusal(folder / "maps", folder / "series", tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_header_is_one_line(exported, tmp_path, seed):
    folder, _ = exported
    content = (folder / "series" / f"{NAME}.dcm").read_bytes()
    header, rng = bytearray(content[: content.index(b"\xe0\x7f\x10\x00")]), np.random.default_rng(seed)
    for _ in range(25):
        damaged = header.copy()
        for at in rng.integers(132, len(header), rng.integers(1, 9)):
            damaged[at] = rng.integers(256)
        (tmp_path / "a.dcm").write_bytes(damaged[: rng.integers(132, len(header))] if rng.random() < 0.2 else damaged)
        with suppress(ExchangeError):
            read_dicom_slide(tmp_path / "a.dcm")


@pytest.mark.filterwarnings("ignore:The PN component length")
def test_nothing_of_a_header_is_printed(exported, tmp_path, capfd):
    folder, outcome = exported
    ds = pydicom.dcmread(folder / "series" / f"{NAME}.dcm")
    ds.PatientName = "Secret" * 20  # longer than allowed, of which pydicom warns
    ds.save_as(tmp_path / f"{NAME}.dcm")
    capfd.readouterr()
    again = export_dicom(folder / "maps", tmp_path / f"{NAME}.dcm", tmp_path / "out")
    assert len(again.results["files"]) == len(outcome.results["files"])
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_exported_is_one_line(exported, tmp_path, monkeypatch):
    folder, _ = exported
    maps, series = folder / "maps", folder / "series"
    (tmp_path / "S.tif").write_bytes(b"II*\0")
    assert "not a DICOM slide" in refusal(maps, tmp_path / "S.tif", tmp_path)
    assert "no such file" in refusal(maps, tmp_path / "none.dcm", tmp_path)
    assert "holds no DICOM slide" in refusal(maps, tmp_path, tmp_path)
    assert "has no results of the slide" in refusal(tmp_path, series, tmp_path)
    for lacking, named in (("FrameOfReferenceUID", "lacks FrameOfReferenceUID"), ("ImageType", "no instance")):
        ds = pydicom.dcmread(series / f"{NAME}.dcm")
        del ds[lacking]
        ds.save_as(tmp_path / f"{NAME}.dcm")
        assert named in refusal(maps, tmp_path / f"{NAME}.dcm", tmp_path)
    ds = pydicom.dcmread(series / f"{NAME}.dcm")
    ds.TotalPixelMatrixColumns = 9999
    ds.save_as(tmp_path / f"{NAME}.dcm")
    assert "which has 9999" in refusal(maps, tmp_path / f"{NAME}.dcm", tmp_path)
    ds.ImageOrientationSlide, ds.TotalPixelMatrixColumns = [0, 1], dicom.WIDTH
    ds.save_as(tmp_path / f"{NAME}.dcm")
    assert "values that DICOM does not allow" in refusal(maps, tmp_path / f"{NAME}.dcm", tmp_path)
    del ds.SharedFunctionalGroupsSequence
    ds.save_as(tmp_path / f"{NAME}.dcm")
    assert "spacing of pixels" in refusal(maps, tmp_path / f"{NAME}.dcm", tmp_path)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    assert "highdicom is not installed. Run: pip install 'vitrail[dicom]'" in refusal(maps, series, tmp_path)
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.9.1")
    assert "highdicom is 0.9.1, and 0.28 or later is needed" in refusal(maps, series, tmp_path)


@needs_data("readers/small_dicom.dcm")
def test_a_header_without_a_place_on_the_slide_is_refused(tmp_path):
    assert "no instance with the slide's pixels" in refusal(tmp_path, DATA / "readers" / "small_dicom.dcm", tmp_path)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(5, 95), st.floats(5, 95), st.floats(0.5, 9)), max_size=12))
def test_pieces_without_holes_are_the_region(circles):
    region = shapely.box(0, 0, 100, 100).difference(
        shapely.union_all([shapely.Point(x, y).buffer(radius, quad_segs=2) for x, y, radius in circles])
    )
    pieces = [shapely.Polygon(ring) for ring in rings_of(region)]
    assert all(piece.is_valid for piece in pieces)
    assert math.fsum(piece.area for piece in pieces) == pytest.approx(region.area, rel=1e-9)
    assert shapely.symmetric_difference(shapely.union_all(pieces), region).area < 1e-6 * region.area


def test_the_commands_of_the_page_run(exported, tmp_path, monkeypatch):
    folder, _ = exported
    monkeypatch.chdir(tmp_path)
    (tmp_path / "series").symlink_to(folder / "series")
    (tmp_path / "maps").symlink_to(folder / "maps")
    (tmp_path / "nuclei").mkdir()
    (tmp_path / "nuclei" / f"{NAME}.nuclei.parquet").symlink_to(folder / "maps" / f"{NAME}.nuclei.parquet")
    page = (Path(__file__).parents[2] / "docs" / "dicom.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("vitrail export")]
    assert len(commands) >= 2
    for command in commands:
        assert vitrail(*shlex.split(command)[1:]) == 0, command
