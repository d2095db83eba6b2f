"""What a model is: the package format and the inference of trees."""
