"""What image–audio methods share after the model: test sets, scoring, tables, figures, boxes of a map."""
