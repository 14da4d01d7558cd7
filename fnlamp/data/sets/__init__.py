"""Named data sets and folders of images: published files, their locations, downloads and checks."""
