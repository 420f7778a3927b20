"""Fine-grained semantic constraint in image synthesis (Li and Wang, arXiv 2021). Not the FineGAN of CVPR 2019."""
