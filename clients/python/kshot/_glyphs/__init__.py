"""The parts of `kshot.glyphs`: dice, strokes, and the scripts that combine them."""
