"""Training: the masking curriculum, rare-class weights, the trainer and its checkpoints."""
