"""`python -m patching.demo`: next tokens, the sweep, its map and what it means. Imports every other room, and no room
imports it but for its named experiments."""
