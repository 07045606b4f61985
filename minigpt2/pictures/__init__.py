"""Pictures: what every figure shares (style), and the views of one run (runs). The only room of minigpt2 that imports
matplotlib; it reads runs and lenses and is read by no other room of minigpt2 but the command line."""
