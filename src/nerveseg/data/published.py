"""Where the dataset of the published run lies, use case 70 of Hydrogen Torch's public catalogue."""

ON_ITS_CARD = "s3://h2oai-hydrogen-torch-internal/dev_datasets/nerves_image_semantic_segmentation.zip"  # private
COPY = "https://h2o-ht-catalog.s3.amazonaws.com/nerves_image_semantic_segmentation.zip"  # public
ADDRESSES = (ON_ITS_CARD, COPY, "s3://h2o-ht-catalog/nerves_image_semantic_segmentation.zip")
