"""SVG drawings as strokes: the outlines of their shapes."""
