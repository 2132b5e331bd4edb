"""convert: other norms in the place of BatchNormalization, started where the model stood."""
