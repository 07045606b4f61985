"""Sets of pairs: reading and making them, sweeping each pair on one machine or many, and statistics over the pairs.

Imports the engine (patching's own files) and minigpt2, nothing of explain, draw, page or demo. Start with pairset.py.
"""
