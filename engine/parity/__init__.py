"""Judging the models, the input pipelines and the trainer against numbers of the official code."""
