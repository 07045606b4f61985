"""The bundled model: a small GPT-2 trained by this repository itself, and everything it was trained with.

words.py and corpus.py write the text, bpe.py learns the vocabulary, batches.py, optimiser.py and train.py the weights;
evaluate.py measures what the model can do, and README.md is its card.
Nothing here is imported by the model; GPT2.from_pretrained("bundled") reads the files that lie beside this one.
"""
