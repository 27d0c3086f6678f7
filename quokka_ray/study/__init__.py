"""What a study is: typed configuration, YAML, overrides, the study's folder."""
