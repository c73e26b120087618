"""What classes are called and described as, and numbers made of that: by CLIP's text tower, or without a language model."""
