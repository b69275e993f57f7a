"""A whole slide of a hospital's archive: a series of DICOM instances with two levels and a label, by pydicom alone."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage

STUDY, SERIES, FRAME = "1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2", "1.2.826.0.1.3680043.8.498.3"
PATIENT = "Secret^Sophie"
WIDTH, HEIGHT, MPP, TILE = 512, 384, 2.0, 128
ORIGIN_MM = (20.0, 40.0)
ORIENTATION = [0.0, -1.0, 0.0, -1.0, 0.0, 0.0]
"""Of rows, then columns: as scanners write it, a slide whose label is on the right."""


def code(value, scheme, meaning):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def picture():
    """Draw tissue that tells left from right and up from down, on glass."""
    image = np.full((HEIGHT, WIDTH, 3), 243, np.uint8)
    y, x = np.mgrid[60:330, 50:450]
    image[60:330, 50:450] = np.stack([120 + x // 6, 60 + y // 6, 140 + x // 12], -1).astype(np.uint8)
    return image


def header(path, number, flavor, downsample):
    """What an instance says of patient, study, specimen and scanner."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = f"{SERIES}.{number}"
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.ImageType = ["DERIVED" if downsample > 1 else "ORIGINAL", "PRIMARY", flavor, "NONE"]
    if downsample > 1:
        ds.ImageType = ["DERIVED", "PRIMARY", flavor, "RESAMPLED"]
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = STUDY, SERIES, FRAME
    ds.StudyDate, ds.StudyTime, ds.ContentDate, ds.ContentTime = "20240102", "101112", "20240103", "131415"
    ds.AcquisitionDateTime = "20240103131400"
    ds.Modality, ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "SM", "1", 1, number
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = PATIENT, "P-4711", "19500101", "F"
    ds.AccessionNumber, ds.ReferringPhysicianName, ds.PositionReferenceIndicator = "A1", "", "SLIDE_CORNER"
    ds.Manufacturer, ds.ManufacturerModelName = "Scanner", "One"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "7", "1.0"
    ds.ContainerIdentifier, ds.IssuerOfTheContainerIdentifierSequence = "S24-0001", []
    ds.ContainerTypeCodeSequence = [code("433466003", "SCT", "Microscope slide")]
    specimen = Dataset()
    specimen.SpecimenIdentifier, specimen.SpecimenUID = "S24-0001-A", f"{SERIES}.99"
    specimen.IssuerOfTheSpecimenIdentifierSequence, specimen.SpecimenPreparationSequence = [], []
    ds.SpecimenDescriptionSequence = [specimen]
    ds.AcquisitionContextSequence = []
    ds.VolumetricProperties, ds.BurnedInAnnotation = "VOLUME", "YES" if flavor == "LABEL" else "NO"
    ds.SpecimenLabelInImage, ds.FocusMethod = "YES" if flavor == "LABEL" else "NO", "AUTO"
    ds.ExtendedDepthOfField, ds.LossyImageCompression = "NO", "01"
    ds.LossyImageCompressionRatio, ds.LossyImageCompressionMethod = 10.0, "ISO_10918_1"
    return ds


def write_instance(path, image, number, flavor, downsample=1):
    """Write one instance of the series; `flavor` is `VOLUME` or `LABEL`."""
    ds = header(path, number, flavor, downsample)
    height, width = image.shape[:2]
    ds.ImagedVolumeWidth, ds.ImagedVolumeHeight, ds.ImagedVolumeDepth = WIDTH * MPP / 1e3, HEIGHT * MPP / 1e3, 0.001
    ds.TotalPixelMatrixColumns, ds.TotalPixelMatrixRows = width, height
    ds.TotalPixelMatrixFocalPlanes = 1
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = ORIGIN_MM
    ds.TotalPixelMatrixOriginSequence, ds.ImageOrientationSlide = [origin], ORIENTATION
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "YBR_FULL_422", 0
    ds.Rows = ds.Columns = TILE
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.DimensionOrganizationType = "TILED_FULL"
    organization = Dataset()
    organization.DimensionOrganizationUID = f"{SERIES}.98"
    ds.DimensionOrganizationSequence = [organization]
    optical = Dataset()
    optical.OpticalPathIdentifier = "1"
    optical.IlluminationTypeCodeSequence = [code("111744", "DCM", "Brightfield illumination")]
    optical.IlluminationColorCodeSequence = [code("414298005", "SCT", "Full Spectrum")]
    ds.OpticalPathSequence, ds.NumberOfOpticalPaths = [optical], 1
    measures, shared, kind = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [MPP * downsample / 1e3] * 2, 0.001
    kind.FrameType = list(ds.ImageType)
    reference = Dataset()
    reference.OpticalPathIdentifier = "1"
    shared.PixelMeasuresSequence, shared.WholeSlideMicroscopyImageFrameTypeSequence = [measures], [kind]
    shared.OpticalPathIdentificationSequence = [reference]
    ds.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            tile = np.full((TILE, TILE, 3), 243, np.uint8)
            part = image[top : top + TILE, left : left + TILE]
            tile[: part.shape[0], : part.shape[1]] = part
            frames.append(io.BytesIO())
            Image.fromarray(tile).save(frames[-1], "JPEG", quality=95)
    ds.NumberOfFrames = len(frames)
    ds.PixelData = encapsulate([frame.getvalue() for frame in frames])
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path, enforce_file_format=True)
    return path


def write_slide(folder):
    """Write the series; return the file of the finest level."""
    folder.mkdir(parents=True, exist_ok=True)
    image = picture()
    write_instance(folder / "2.dcm", image[::2, ::2], 2, "VOLUME", downsample=2)
    write_instance(folder / "3.dcm", np.zeros((TILE, TILE, 3), np.uint8), 3, "LABEL")
    return write_instance(folder / "S24 Präparat.dcm", image, 1, "VOLUME")
