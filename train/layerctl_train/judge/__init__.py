"""The judge: two-phase scoring of layer decompositions, by a vision-language model, by pixels, or simulated."""
