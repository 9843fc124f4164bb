"""Heads, fine-tuning, and the choice between what they give."""
