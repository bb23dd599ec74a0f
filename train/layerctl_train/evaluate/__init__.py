"""Evaluation: decompositions against known layers, by the field's own metrics, and against each other."""
