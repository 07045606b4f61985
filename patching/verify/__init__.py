"""`python -m patching.verify` proves an installation against published facts about the real GPT-2 small. It needs both
packages, so it stands above them: no other room imports it."""
