"""`python -m quokka_ray` is `quokka-ray`."""

from quokka_ray.cli.main import entry_point

if __name__ == "__main__":
    entry_point()
