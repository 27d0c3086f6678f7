"""Variable projection, Newton polish, bootstrap; IsoFLOP parabolas."""
