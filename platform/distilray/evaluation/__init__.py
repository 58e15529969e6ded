"""Model evaluation: GLUE, fill-mask, bias and efficiency."""
