"""Tasks, one file each; the TASK of another file here is another task."""
