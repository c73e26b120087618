"""Zero-shot recognition: what the systems under `models/` that learn from text share, each thing once.

Two affine variational autoencoders, one for skeleton features and one for text features of the class names, are aligned on seen
classes; a classifier of unseen classes is trained on latents of their text; a gate decides between seen and unseen.
Source: the zero-shot specification, sections 1 to 5.
"""

PLAN, RESULTS = "plan.json", "results.json"
"""Files of a work folder: whose it is, and what the run came to."""
COLUMNS = ("ZSL", "S", "U", "H")
"""What a run is judged by: accuracy among unseen classes; of seen and of unseen clips among all; the harmonic mean of these."""
