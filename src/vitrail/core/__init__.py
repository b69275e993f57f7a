"""What everything stands on: files, processes, progress, interruption."""
