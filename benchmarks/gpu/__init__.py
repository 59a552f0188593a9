"""What needs a GPU to be true: exactness on the device and the capture's cost there (`python -m benchmarks.gpu`)."""
