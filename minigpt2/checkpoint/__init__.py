"""Checkpoints: how a name or a folder becomes sizes and arrays (config, tensors, weights, hub) and a vocabulary
(vocabulary, ids, added, tokenizer_json), each file's bytes treated as untrusted. Imports model.py, errors.py and
atomic.py; knows no tokenizer's inside, no picture and nothing about patching."""
