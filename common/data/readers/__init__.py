"""A data set a file, each with all of its facts, and the file formats that they share."""
