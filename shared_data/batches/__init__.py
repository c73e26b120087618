"""From clips to batches: which frames, fetched how, changed how, in which order."""
