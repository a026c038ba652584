"""Talking to a container engine: finding it, images, networks, and what is left of dead sessions."""
