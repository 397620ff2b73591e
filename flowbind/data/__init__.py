"""From datasets on disk to training batches."""
