"""Made-up outlines, and slides whose bounds are not the whole."""

from __future__ import annotations

import numpy as np
import shapely
from hypothesis import strategies as st

from vitrail.geometry import Region
from vitrail.slides.outlines.writing import Outline
from vitrail.slides.slide import Slide


def made_up_slide(path, x=0, y=0, size=(1000, 800), frame=None):
    """A slide as its header would say it, without a file; its bounds begin at (x, y) of its own frame."""
    bounds = Region(x=x, y=y, width=size[0], height=size[1])
    return Slide(path=path, bounds=bounds, mpp=0.25, downsamples=(1.0,), frame=frame)


@st.composite
def stars(draw, centre, least, most):
    """A ring around a point, whose corners lie at growing angles and so cross nowhere."""
    count = draw(st.integers(3, 9))
    radii = draw(st.lists(st.floats(least, most), min_size=count, max_size=count))
    turn = np.arange(count) * (2 * np.pi / count) + draw(st.floats(0, 1))
    return np.stack([centre[0] + radii * np.cos(turn), centre[1] + radii * np.sin(turn)], axis=1)


@st.composite
def polygons(draw):
    """A polygon with up to four holes, some with an island."""
    x, y = draw(st.floats(0, 50_000)), draw(st.floats(0, 50_000))
    shell = draw(stars((x, y), 120, 200))
    spots = draw(st.lists(st.sampled_from([(-20, -20), (-20, 20), (20, -20), (20, 20)]), max_size=4, unique=True))
    holes, islands = [], []
    for dx, dy in spots:
        holes.append(draw(stars((x + dx, y + dy), 8, 12)))
        if draw(st.booleans()):
            islands.append(shapely.Polygon(draw(stars((x + dx, y + dy), 1, 3))))
    return [shapely.Polygon(shell, holes), *islands]


@st.composite
def outlines(draw, *, unnamed=True):
    """Outlines of some classes, of one or more polygons each; classes and shapes may overlap."""
    names = st.sampled_from(["Tumor", "Stroma & <fat>", 'é "x"', *([None] if unnamed else [])])
    result = []
    for shell, *islands in draw(st.lists(polygons(), min_size=1, max_size=4)):
        name = draw(names)
        result.append(Outline(name=name, area=shell))
        result += [Outline(name=draw(st.sampled_from([name, "Island"])), area=island) for island in islands]
    return result


BOX = [[100, 200], [300, 200], [300, 260], [100, 260]]
"""What every specimen draws as Tumor: 200 x 60 pixels."""

RING = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(BOX))
WKT = "POLYGON ((" + ", ".join(f"{x} {800 - y}" for x, y in [*BOX, BOX[0]]) + "))"


def vertices(tag, ring=BOX):
    corners = [f'<{tag} X="{x}" Y="{y}"/>' for x, y in ring]
    return f"<Vertices>{''.join(corners)}</Vertices>"


def asap(corners):
    annotation = (
        f'<Annotation Name="a" Type="Polygon" PartOfGroup="Tumor"><Coordinates>{corners}</Coordinates></Annotation>'
    )
    return f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{annotation}</Annotations></ASAP_Annotations>'


def halo(regions):
    layer = f'<Annotation Name="Tumor" Visible="True"><Regions>{regions}</Regions></Annotation>'
    return f"<Annotations>{layer}</Annotations>"


def imagescope(name, regions, description=""):
    attributes = f'<Attributes><Attribute Name="Description" Value="{description}"/></Attributes>'
    layer = f'<Annotation Id="1" {name}>{attributes}<Regions>{regions}</Regions></Annotation>'
    return f'<Annotations MicronsPerPixel="0.25">{layer}</Annotations>'


def web(selector, **more):
    body = [{"type": "TextualBody", "value": "looks odd"}, {"purpose": "tagging", "value": "Tumor"}]
    return {"@context": "http://www.w3.org/ns/anno.jsonld", "type": "Annotation", "body": body,
            "target": {"selector": selector, **more}}  # fmt: skip


SVG = {"type": "SvgSelector", "value": '<svg><polygon points="100,200 300,200 300,260 100,260"></polygon></svg>'}
PATH = {"type": "SvgSelector", "value": '<svg><path d="M100 200h200v60h-200z"/></svg>'}
FRAGMENT = {"type": "FragmentSelector", "value": "xywh=pixel:100,200,200,60"}
DSA = {"group": "Tumor", "type": "polyline", "closed": True, "points": [[*point, 0] for point in BOX]}
COCO = {
    "images": [{"id": 7, "file_name": "slide.svs"}], "categories": [{"id": 3, "name": "Tumor"}],
    "annotations": [{"image_id": 7, "category_id": 3, "segmentation": [np.ravel(BOX).tolist()]}],
}  # fmt: skip
DARWIN = {"name": "Tumor", "polygon": {"paths": [[{"x": x, "y": y} for x, y in BOX]]}, "bounding_box": {}}
CSV = "roi_name,x_base,y_base,label\n" + "".join(f"r1,{x},{y},Tumor\n" for x, y in BOX)

SPECIMENS = {
    "asap": [asap(RING)],
    "halo": [
        halo(f'<Region Type="Polygon" HasEndcaps="0" NegativeROA="0">{vertices("V")}</Region>'),
        halo(f'<Region Type="Rectangle" HasEndcaps="0" NegativeROA="0">{vertices("V", BOX[::2])}</Region>'),
    ],
    "imagescope": [
        imagescope('Name="Tumor"', f'<Region Id="1" Type="0" NegativeROA="0">{vertices("Vertex")}</Region>'),
        imagescope('Name=""', f'<Region Type="1">{vertices("Vertex")}</Region>', "Tumor"),
        imagescope('Name=""', f'<Region Type="0" Text="Tumor">{vertices("Vertex")}</Region>'),
    ],
    "slideflow": [CSV, CSV.replace("roi_name,x_base,y_base", "ROI_Name,X_base,Y_base").replace("\n", "\r\n")],
    "qupath": [{"type": "FeatureCollection", "features": [{
        "type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[*BOX, BOX[0]]]},
        "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
    }]}],
    "coco": [
        COCO,
        COCO | {"annotations": [{"image_id": 7, "category_id": 3, "bbox": [100, 200, 200, 60]}]},
        COCO | {"annotations": [{"image_id": 7, "category_id": 3, "iscrowd": 1, "segmentation": {
            "size": [800, 1000], "counts": [100 * 800 + 200, *([60, 740] * 199), 60, 800 * 1000 - 299 * 800 - 260]}}]},
    ],
    "darwin": [
        {"version": "2.0", "item": {"name": "slide.svs"}, "annotations": [DARWIN]},
        {"image": {}, "annotations": [{"name": "Tumor", "polygon": {"path": DARWIN["polygon"]["paths"][0]}}]},
        {"item": {}, "annotations": [{"name": "Tumor", "bounding_box": {"x": 100, "y": 200, "w": 200, "h": 60}}]},
    ],
    "dsa": [
        {"name": "a", "elements": [DSA]},
        [{"_id": "5", "annotation": {"name": "a", "elements": [DSA]}}],
        {"elements": [{"label": {"value": "Tumor"}, "type": "rectangle", "center": [200, 230, 0], "width": 60,
                       "height": 200, "rotation": np.pi / 2}]},
        {"name": "Tumor", "elements": [{k: v for k, v in DSA.items() if k != "group"}]},
    ],
    "cytomine": [
        {"collection": [{"id": 1, "location": WKT, "term": [9]}], "terms": [{"id": 9, "name": "Tumor"}]},
        [{"id": 1, "location": WKT, "term": [{"id": 9, "name": "Tumor"}]}],
    ],
    "web": [
        [web(SVG)], web([FRAGMENT]), {"type": "AnnotationPage", "items": [web(PATH)]},
        [web({"type": "FragmentSelector", "value": "xywh=percent:10,25,20,7.5"})],
    ],
}  # fmt: skip
