"""Passwords and other secrets: how they are made, kept and compared.

Passwords are kept as argon2id (argon2-cffi's defaults, RFC 9106's low-memory profile); random secrets of 256 bits as
SHA-256, which is enough for what nobody can guess.
"""

from __future__ import annotations

import functools
import hashlib
import re
import secrets
import threading
import unicodedata
from typing import TYPE_CHECKING

from tunesmith.errors import UserError

if TYPE_CHECKING:
    from argon2 import PasswordHasher

SHORTEST, LONGEST = 10, 200

_COMMON = frozenset(re.findall(r"\w+", """
    password passwort passwords passw parola contrasena motdepasse qwerty qwertyuiop azertyuiop asdfghjkl zxcvbnm
    qazwsx iloveyou princess sunshine football baseball basketball superman batman pokemon starwars dragon monkey
    shadow master letmein welcome welcometo login access admin administrator root superuser user username guest
    default changeme secret mysecret trustno whatever computer internet samsung google facebook linkedin microsoft
    michael jennifer jordan michelle charlie liverpool chelsea arsenal barcelona summer winter spring autumn monday
    friday january december test testing tester demo example temporary temp qwer asdf abc abcd abcdef abcdefgh
    abcdefghij tunesmith labeler labeller annotator studio workspace loandesk openai chatgpt
    correcthorsebatterystaple opensesame hello helloworld iloveyouforever loveme lovely babygirl angel blink nothing
    freedom mustang corvette harley ferrari thunder killer pepper ginger cookie buster hunter ranger soccer hockey
    tigger matrix phoenix cheese banana
"""))
_ROWS = ("01234567890123456789", "09876543210987654321", "abcdefghijklmnopqrstuvwxyz", "qwertyuiopasdfghjklzxcvbnm",
         "poiuytrewqlkjhgfdsamnbvcxz", "qwertzuiopasdfghjklyxcvbnm", "1qaz2wsx3edc4rfv5tgb6yhn7ujm",
         "q1w2e3r4t5y6u7i8o9p0", "1q2w3e4r5t6y7u8i9o0p")
_LOOKS = str.maketrans("013457@$!+", "oleastasit")
_SLOTS = threading.BoundedSemaphore(2)
"""One argon2id takes 64 MiB for a moment: many sign-ins at once wait for each other instead of filling the memory."""


def digest(secret: str) -> str:
    """What is stored of a random secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_secret() -> str:
    """256 random bits, as 43 characters that need no escaping in a URL."""
    return secrets.token_urlsafe(32)


def check_password(password: str, name: str = "") -> str:
    """The password in the form that is hashed (Unicode NFC).

    Raises:
        UserError: too short, too long, or one that a guesser would try early. The message never holds it.
    """
    password = unicodedata.normalize("NFC", password)
    if len(password) < SHORTEST:
        raise UserError(f"the password is too short: it needs at least {SHORTEST} characters; "
                        "three or four words in a row are easy to keep")
    if len(password) > LONGEST:
        raise UserError(f"the password is too long: at most {LONGEST} characters")
    if _guessable(password.lower(), name.lower()):
        raise UserError("this password is one of the first that a guesser tries; "
                        "three or four words that have nothing to do with each other are better")
    return password


def hash_password(password: str) -> str:
    """argon2id with a salt of its own, in the usual text form."""
    with _SLOTS:
        return _hasher().hash(unicodedata.normalize("NFC", password))


def fits(password: str, stored: str) -> bool:
    """Whether the password is the stored one. Without a stored one the same work is done, and the answer is no."""
    from argon2.exceptions import InvalidHashError, VerificationError

    password = unicodedata.normalize("NFC", password[:LONGEST + 1])
    with _SLOTS:
        try:
            return _hasher().verify(stored or _nobody(), password) and bool(stored)
        except (VerificationError, InvalidHashError):
            return False


@functools.cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher

    return PasswordHasher()


@functools.cache
def _nobody() -> str:
    """A hash that no password has: what is compared when there is no account."""
    return _hasher().hash(secrets.token_urlsafe(32))


def _guessable(password: str, name: str) -> bool:
    letters = "".join(c for c in password.strip("0123456789!?.,;:#*-_+/ ").translate(_LOOKS) if c.isalnum())
    plain = "".join(c for c in password if c.isalpha())
    known = _COMMON | {"".join(c for c in name if c.isalnum())} - {""}
    return (len(set(password)) < 5 or any(password in row or password[::-1] in row for row in _ROWS)
            or any(_repeats(text, known) for text in (letters, plain, password)))


def _repeats(text: str, known: frozenset[str] | set[str]) -> bool:
    """A known word, alone or over and over."""
    return any(text == word * (len(text) // len(word)) for word in known if text and len(text) % len(word) == 0)
