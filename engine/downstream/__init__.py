"""What an encoder's features are worth: one suite for any backbone, which looks at arrays of features and labels alone."""
