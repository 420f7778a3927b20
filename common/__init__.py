"""Mechanisms that every paper shares. Knows no paper, no Hydra."""
