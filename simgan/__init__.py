"""SIMGAN: photo-realistic semantic image manipulation using GANs (Yu et al., ICIP 2019). Not Apple's SimGAN."""
