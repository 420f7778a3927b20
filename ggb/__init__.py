"""Generative guiding blocks: a person in another pose (Park, Kim and Ro, ICIP 2019), with PG2 and the plain U-Net."""
