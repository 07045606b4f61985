"""What a result says: findings by arithmetic, labels for its cells, conclusions in words. Imports the engine (the files
directly in patching/) and minigpt2; draws nothing, apart from the views of both runs, which hand out their figures."""
