"""Offline meta-learning in torch: symmetry matrices, learners, the outer loop, checkpoints and scores."""
