"""What a transform is: a rewriting of a request that needs no model. Its fields are its parameters."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from enum import StrEnum
from random import Random
from typing import ClassVar, NamedTuple

from rubrica.core.config import Config
from rubrica.core.prompts import Message


class Family(StrEnum):
    """Kinds of transforms, by what they do to a request."""

    PERSONA = "persona"
    """The model is to play somebody who answers."""
    TEMPLATE = "template"
    """A frame in which answering seems right: a story, a title, a mode, a form of the answer."""
    ENCODING = "encoding"
    """The request is written in a code that the model is asked to read."""
    SPELLING = "spelling"
    """The request stays readable for people, its characters do not."""
    REWRITING = "rewriting"
    """The same request in another grammar or in parts."""
    CONVERSATION = "conversation"
    """Earlier turns, some of them put into the model's mouth."""
    SUFFIX = "suffix"
    """Something stands behind the request."""
    AUGMENTATION = "augmentation"
    """Many random variations of one request."""


class Request(NamedTuple):
    """What a transform is given."""

    messages: tuple[Message, ...]
    """They end with the user's."""
    target: str
    """How an answer that complies would begin; empty where the item names none."""
    rng: Random
    """A function of the seed, the item and the transform."""


class Variant(NamedTuple):
    """What a transform makes of a request."""

    messages: tuple[Message, ...]
    note: str = ""
    """Which of its texts was taken, where there are several; recorded with the item."""


class Transform(Config, ABC):
    """One way to rewrite a request. The first line of a subclass's docstring is its summary."""

    name: ClassVar[str]
    family: ClassVar[Family]
    reference: ClassVar[str]
    """Paper and arXiv id."""

    @property
    def count(self) -> int:
        """How many variants of a request there are."""
        return 1

    @abstractmethod
    def variants(self, request: Request) -> Iterator[Variant]:
        """Yield the ``count`` variants of ``request``; each ends with the user's turn."""


class TextTransform(Transform):
    """A transform of the user's last message alone."""

    @abstractmethod
    def rewrite(self, text: str, request: Request) -> str:
        """Return what takes the place of ``text``."""

    def variants(self, request: Request) -> Iterator[Variant]:
        """Yield the one variant."""
        yield Variant(with_last(request.messages, self.rewrite(request.messages[-1].content, request)))


def with_last(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    """Return ``messages`` with ``text`` as the user's last."""
    return (*messages[:-1], Message(role="user", content=text))


def draw(*key: object) -> Random:
    """Return a generator that is a function of ``key``, the same in every process."""
    text = "\0".join(map(str, key)).encode("utf-8", "surrogatepass")
    return Random(int.from_bytes(hashlib.blake2b(text, digest_size=16).digest()))
