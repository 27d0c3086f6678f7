"""What a source of text is: documents, and a fingerprint of all that they are made from."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple, Protocol


class Document(NamedTuple):
    """One piece of text that stands for itself.

    Attributes:
        text: Its text.
        group: Documents of one group fall on the same side of the validation split; None: the
            document is its own group.
    """

    text: str
    group: str | None = None


class Source(Protocol):
    """Where documents come from.

    Attributes:
        description: What it is, for people.
        skipped: How many files or rows were left out, by reason; filled while iterating.
    """

    description: str
    skipped: Counter[str]

    def fingerprint(self) -> str:
        """Return a hash of everything that decides the documents."""
        ...

    def documents(self) -> Iterator[Document]:
        """Yield the documents that are split into training and validation."""
        ...

    def validation_documents(self) -> Iterator[Document]:
        """Yield the documents that are validation by decree; none: the split makes them."""
        ...
