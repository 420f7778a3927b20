"""JEM: pictures from a sentence and the features of a segmentation image (Yu et al., CONF-CDS 2021)."""
