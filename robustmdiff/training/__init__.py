"""Training: a loop for any model, its checkpoints and log; masked patients and rare-class weights."""
