"""Names for ad-hoc containers: an adjective and a surname, such as ``brave_lovelace``."""

from __future__ import annotations

import random
import re
from collections.abc import Container

from reconciler.errors import InvalidError

_ADJECTIVES = (
    "able amber apt blithe bold brave bright brisk calm candid careful cheerful clear clever cosy curious daring deft "
    "eager early earnest fair fearless fleet fond frank free fresh gentle glad golden graceful grand happy hardy "
    "hearty honest humble jolly jovial keen kind lively loyal lucid lucky mellow merry mild modest neat nimble noble "
    "patient placid plucky polite prompt proud quick quiet rapid ready robust rustic serene sharp silent silver "
    "sincere smooth snug sober steady stoic sturdy sunny swift tender tidy tranquil trusty upbeat vivid warm wise "
    "witty zesty"
).split()
_SURNAMES = (
    "abel archimedes babbage banneker bell bernoulli bohr boole borg brahe cantor carson cauchy cerf chandrasekhar "
    "church codd cohen copernicus curie dalton darwin descartes dijkstra dirac easley edison einstein engelbart "
    "erdos euclid euler faraday fermat fermi feynman fourier franklin galileo galois gauss germain goedel goldberg "
    "goodall hamilton hawking hertz hilbert hodgkin hoare hopper hypatia jacobi johnson joule kalman kepler knuth "
    "kolmogorov kovalevskaya lamarr lamport leavitt leibniz liskov lovelace maxwell mclean meitner mendel "
    "mirzakhani newton noether pascal pasteur perlman planck poincare ptolemy ramanujan ride ritchie rubin "
    "rutherford sagan shannon somerville tesla thompson torvalds turing volta wiles wilson wozniak wright yalow"
).split()
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}", re.ASCII)


def random_name(taken: Container[str], source: random.Random | None = None) -> str:
    """A name that is not ``taken``; with a number behind it once free pairs become rare."""
    pick = source or random.Random()
    for attempt in range(1_000):
        name = f"{pick.choice(_ADJECTIVES)}_{pick.choice(_SURNAMES)}"
        if attempt >= 100:
            name += f"_{pick.randrange(2, 10_000)}"
        if name not in taken:
            return name
    raise InvalidError("no free name was found", hint="give the container a name with --name")


def check_name(name: str) -> str:
    """Returns ``name`` if it may name an ad-hoc container. Raises ``InvalidError``."""
    if _NAME.fullmatch(name) is None:
        raise InvalidError(
            f"malformed container name {name[:100]!a}", hint="use a-z 0-9 _ . - (at most 63), beginning with a-z or 0-9"
        )
    return name
