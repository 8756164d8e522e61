"""DICOM: files, their frames and the masks that belong to them. Imported only for datasets that have some."""
