"""What touches the disk or an optional package: model files, architectures, data, exports."""
