"""What a source of text is: documents, and a fingerprint of all that they are made from."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Document(NamedTuple):
    """One piece of text that stands for itself.

    Attributes:
        text: Its text; empty where there are tokens.
        group: Documents of one group fall on the same side of the validation split; None: the
            document is its own group.
        tokens: Its tokens where they are made already, without an end of document.
    """

    text: str
    group: str | None = None
    tokens: NDArray[np.integer] | None = None


class Source(Protocol):
    """Where documents come from.

    Attributes:
        description: What it is, for people.
        skipped: How many files or rows were left out, by reason; filled while iterating.
        size: Bytes to read, or None where nobody knows.
        rereadable: Whether it can be read twice. A pipe cannot: its fingerprint is known once it
            was read to its end.
    """

    description: str
    skipped: Counter[str]
    size: int | None
    rereadable: bool

    @property
    def done(self) -> int:
        """Bytes read so far."""
        ...

    def fingerprint(self) -> str:
        """Return a hash of everything that decides the documents."""
        ...

    def documents(self) -> Iterator[Document]:
        """Yield the documents that are split into training and validation."""
        ...

    def validation_documents(self) -> Iterator[Document]:
        """Yield the documents that are validation by decree; none: the split makes them."""
        ...
