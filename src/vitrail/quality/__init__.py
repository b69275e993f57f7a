"""What can be seen before any network looks: glass, tissue, artefacts."""
