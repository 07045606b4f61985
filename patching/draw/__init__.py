"""Results as pictures and as maps in a terminal; `python -m patching.draw` draws saved ones again. Imports the engine and
explain/; the page, the demo and a Result's picture in a notebook are drawn with it."""
