"""What the library costs, measured against plain requests and others; `make bench` runs all of it."""
