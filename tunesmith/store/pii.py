"""Personal data in texts: patterns, and checksums where the data have one, so that few other numbers are taken for it.

    key          access keys and tokens (by prefix, by what stands before them, or because they are random), private
                 key blocks, JSON web tokens, passwords in addresses
    email  iban (mod 97)  ip (v4, v6)  account (behind a word that says so)
    card         with Luhn's check digit; without, written four by four or behind "card"
    national_id  US, UK, ES, IT, FR, DE, CH, SE, PL, BR, IN, CA, NL; others only behind a word that says so
    phone        international, North American, with a trunk zero, or behind a word that says so

Rules are tried in this order, and what one has taken no later one takes. Each is linear in the length of a text.
Left out: names, addresses, dates of birth, which patterns cannot tell from other words; see `privacy.presidio`.
"""

from __future__ import annotations

import ipaddress
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

Span = tuple[int, int]
DIGITS = frozenset("0123456789")
_ODD = str.maketrans({**dict.fromkeys("\u00a0\u2007\u2009\u202f\u3000", " "),
                      **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\uff0d", "-"), "\uff0b": "+", "\uff20": "@"})


def plain(text: str) -> str:
    """The same with ordinary digits, spaces and hyphens, character for character."""
    if text.isascii():
        return text
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text.translate(_ODD))


# ---- checksums


def luhn(digits: str) -> bool:
    """Every second digit from the right doubled, the digits of all summed: a multiple of ten (ISO/IEC 7812-1)."""
    doubled = (int(d) * (1 + n % 2) for n, d in enumerate(reversed(digits)))
    return sum(d // 10 + d % 10 for d in doubled) % 10 == 0


def mod97(iban: str) -> bool:
    """An IBAN without spaces: the first four behind the rest, letters as 10 to 35, modulo 97 is 1 (ISO 13616)."""
    return int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1


def weighed(digits: str, weights: str) -> int:
    """The sum of digits times weights, one each."""
    return sum(int(d) * int(w) for d, w in zip(digits, weights, strict=True))


def verhoeff(digits: str) -> bool:
    """Verhoeff's check in the dihedral group of order ten (Aadhaar)."""
    check = 0
    for n, d in enumerate(reversed(digits)):
        check = _times(check, _permuted(int(d), n))
    return check == 0


def _times(a: int, b: int) -> int:
    turned = (a % 5 + (b if a < 5 else -b)) % 5
    return turned + 5 * ((a >= 5) != (b >= 5))


def _permuted(d: int, n: int) -> int:
    for _ in range(n % 8):
        d = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[d]
    return d


def _tax_id(digits: str) -> bool:
    """Germany's: ISO 7064 mod 11,10; among the first ten, one digit comes two or three times and no other twice."""
    counts = Counter(digits[:10])
    rest = 10
    for d in digits[:10]:
        rest = ((int(d) + rest) % 10 or 10) * 2 % 11
    return sorted(counts.values())[-2:] in ([1, 2], [1, 3]) and (11 - rest) % 10 == int(digits[10])


def _cpf(digits: str) -> bool:
    """Brazil's: each check digit is ten times the sum of those before it, weighed 2, 3, ... from the right, mod 11."""
    checks = (sum(int(d) * w for w, d in enumerate(reversed(digits[:n]), 2)) * 10 % 11 % 10 for n in (9, 10))
    return len(set(digits)) > 1 and digits[9:] == "".join(map(str, checks))


def _nir(text: str) -> bool:
    """France's: the last two are 97 minus the rest modulo 97; Corsica's 2A and 2B count as 19 and 18."""
    number = text.upper().replace("2A", "19").replace("2B", "18")
    return 97 - int(number[:-2]) % 97 == int(number[-2:])


def _codice_fiscale(text: str) -> bool:
    """Italy's: characters at odd places have values of their own; the sum modulo 26 is the last letter."""
    odd = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
    places = [int(c) if c in DIGITS else ord(c.upper()) - 65 for c in text[:15]]
    total = sum(place if n % 2 else odd[place] for n, place in enumerate(places))
    return chr(65 + total % 26) == text[-1].upper()


def _dni(text: str) -> bool:
    """Spain's: the number modulo 23 names the letter; a foreigner's X, Y, Z stand for 0, 1, 2."""
    number = text[:-1].upper().translate(str.maketrans("XYZ", "012"))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == text[-1].upper()


def _day(month: str, day: str) -> bool:
    return 1 <= int(month) % 20 <= 12 and 1 <= int(day) <= 31


# ---- rules

@dataclass(frozen=True, slots=True)
class Rule:
    """What may be something of a kind, and what makes it so. A text without `needs` ("0": any digit; "7": seven digits
    not far from each other) is not searched, which is why most texts cost little.

    The pattern's group `it`, if it has one, is what is found; `holds` is asked about its letters and digits alone.
    """

    kind: str
    pattern: re.Pattern[str]
    holds: Callable[[str], bool] = lambda found: True
    needs: str = "0"

    def spans(self, text: str) -> Iterator[Span]:
        """Where it is found."""
        group = "it" if "it" in self.pattern.groupindex else 0
        for match in self.pattern.finditer(text):
            if self.holds("".join(c for c in match[group] if c.isalnum())):
                yield match.span(group)


LONG = re.compile(r"\d(?:[ ./()+-]{0,3}\d){6}")


def _rule(kind: str, pattern: str, holds: Callable[[str], bool] = lambda found: True, needs: str = "0",
          flags: int = re.ASCII) -> Rule:
    return Rule(kind, re.compile(pattern, flags), holds, needs)


def _telling(text: str) -> bool:
    return bool(DIGITS & set(text)) and len(text) >= 6


def _random(text: str) -> bool:
    """Whether characters come as by chance: high entropy, and small and large letters and digits in turns."""
    if len(text) >= 32 and re.fullmatch(r"[0-9a-f]+|[0-9A-F]+", text):
        return not text.isdecimal() and not DIGITS.isdisjoint(text) and _entropy(text) > 3.0
    kinds = ["0" if c in DIGITS else "a" if c.islower() else "A" for c in text]
    turns = sum(one != two for one, two in pairwise(kinds))
    return len(set(kinds)) == 3 and turns >= 0.4 * len(text) and _entropy(text) > 3.5


def _entropy(text: str) -> float:
    """Bits per character."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def _address(text: str) -> bool:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (ip.is_loopback or ip.is_unspecified) and bool(DIGITS & set(text)) and len(text) > 5


@dataclass(frozen=True, slots=True)
class _Addresses(Rule):
    """IP addresses, which are checked as they stand."""

    def spans(self, text: str) -> Iterator[Span]:
        return (match.span() for match in self.pattern.finditer(text) if _address(match[0]))


IBAN_LENGTHS = {code: int(length) for code, length in re.findall(r"(\w\w):(\d\d)", """
    AD:24 AE:23 AL:28 AT:20 AZ:28 BA:20 BE:16 BG:22 BH:22 BR:29 BY:28 CH:21 CR:22 CY:28 CZ:24 DE:22 DK:18 DO:28 EE:20
    EG:29 ES:24 FI:18 FO:18 FR:27 GB:22 GE:22 GI:23 GL:18 GR:27 GT:28 HR:21 HU:28 IE:22 IL:23 IQ:23 IS:26 IT:27 JO:30
    KW:30 KZ:20 LB:28 LC:32 LI:21 LT:20 LU:20 LV:21 MC:27 MD:24 ME:22 MK:19 MR:27 MT:31 MU:30 NL:18 NO:15 PK:24 PL:28
    PS:29 PT:25 QA:29 RO:24 RS:22 SA:24 SC:31 SE:24 SI:19 SK:24 SM:27 SV:28 TL:23 TN:24 TR:26 UA:29 VA:22 VG:24 XK:20
""")}
"""Characters of each country's IBANs."""


@dataclass(frozen=True, slots=True)
class _Ibans(Rule):
    """An IBAN ends where its country says: what follows it may look like more of it."""

    def spans(self, text: str) -> Iterator[Span]:
        for match in self.pattern.finditer(text):
            found, end = "", match.start()
            length = IBAN_LENGTHS.get(match[1].upper(), 0)
            while len(found) < length and end < len(text) and (text[end].isalnum() or text[end] in " -"):
                found += text[end] if text[end].isalnum() else ""
                end += 1
            whole = len(found) == length > 0 and found.isascii() and not text[end:end + 1].isalnum()
            if whole and mod97(found):
                yield match.start(), end


@dataclass(frozen=True, slots=True)
class _Cards(Rule):
    """A card number may stand between other numbers: every run of digits is tried from each of its parts on."""

    def spans(self, text: str) -> Iterator[Span]:
        for run in self.pattern.finditer(text):
            at = [run.start() + n for n, c in enumerate(run[0]) if c.isdecimal()]
            yield from self._cards("".join(text[i] for i in at), at)

    def _cards(self, digits: str, at: list[int]) -> Iterator[Span]:
        begins = [n for n in range(len(at)) if n == 0 or at[n] - at[n - 1] > 1]
        ends, free = {*begins[1:], len(at)}, 0
        for begin in begins:
            for length in (16, 15, 14, 13, 19, 18, 17):
                number = digits[begin:begin + length]
                if (begin >= free and begin + length in ends and number[0] in "23456" and len(set(number)) > 1
                        and luhn(number)):
                    free = begin + length
                    yield at[begin], at[free - 1] + 1
                    break


_ID = "national_id"
RULES: tuple[Rule, ...] = (
    _rule("key", r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", needs="-----BEGIN",
          flags=re.DOTALL),
    _rule("key", r"(?<=://)[^\s/:@]{1,64}:[^\s/@]{1,128}(?=@)", needs="://"),
    _rule("key", r"\b(?:sk-[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{20,}|A[KS]IA[A-Z0-9]{16}|"
          r"AIza[\w-]{30,}|xox[abeoprs]-[\w-]{10,}|hf_[A-Za-z0-9]{20,}|glpat-[\w-]{20,}|npm_[A-Za-z0-9]{30,}|"
          r"pypi-[\w-]{30,}|[prs]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/=]{16,}|"
          r"SG\.[\w-]{16,}\.[\w-]{16,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*)", needs=""),
    _rule("key", r"(?i)\b(?:pass(?:word|wort|code|wd)?|pwd|secret|token|pin|(?:api|access)[ _-]?key)\s{0,3}"
          r"(?:is|ist|=|:)\s{0,3}[\"'`]?(?P<it>[^\s\"'`,;]{6,200})", _telling),
    _rule("email", r"[\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}", needs="@", flags=0),
    _Ibans("iban", re.compile(r"\b([A-Za-z]{2})[0-9]{2}(?=[ -]?[A-Za-z0-9])")),
    _Addresses("ip", re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?!\.?\d)", re.ASCII)),
    _Addresses("ip", re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])"), needs=":"),
    _Cards("card", re.compile(r"(?<!\d)\d(?:[ .-]?\d){12,40}(?!\d)"), needs="7"),
    _rule("card", r"(?<!\d)(?<!\d{4}[ -])\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?!\d)(?![ -]\d{4})", needs="7"),
    # France, Switzerland, Italy, Spain, the United Kingdom
    _rule(_ID, r"\b[12] ?\d\d ?(?:0[1-9]|1[0-2]|[2-9]\d) ?(?:\d\d|2[AaBb]) ?\d{3} ?\d{3} ?\d\d\b", _nir, "7"),
    _rule(_ID, r"\b756\.?\d{4}\.?\d{4}\.?\d\d\b", lambda n: weighed(n, "1313131313131") % 10 == 0, "7"),
    _rule(_ID, r"(?i)\b[A-Z]{6}\d\d[A-EHLMPRST]\d\d[A-Z]\d{3}[A-Z]\b", _codice_fiscale),
    _rule(_ID, r"(?i)\b[XYZ\d]\d{7}-?[A-Z]\b", _dni, "7"),
    _rule(_ID, r"(?i)\b(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D]\b"),
    # the United States, Canada, Brazil
    _rule(_ID, r"(?<![\d-])(?!000|666|9\d\d)\d{3}([ -])(?!00)\d\d\1(?!0000)\d{4}(?![\d-])", needs="7"),
    _rule(_ID, r"(?<![\d-])\d{3}[ -]\d{3}[ -]\d{3}(?![\d-])", luhn, "7"),
    _rule(_ID, r"\b\d{3}\.?\d{3}\.?\d{3}-?\d\d\b", _cpf, "7"),
    # Germany, Poland, Sweden, India, the Netherlands
    _rule(_ID, r"\b[1-9]\d ?\d{3} ?\d{3} ?\d{3}\b", _tax_id, "7"),
    _rule(_ID, r"\b\d{11}\b", lambda n: _day(n[2:4], n[4:6]) and weighed(n, "13791379131") % 10 == 0, "7"),
    _rule(_ID, r"\b(?:19|20)?\d{6}[-+]\d{4}\b", lambda n: _day(n[-8:-6], n[-6:-4]) and luhn(n[-10:]), "7"),
    _rule(_ID, r"(?<!\d{4}[ -])\b[2-9]\d{3} ?\d{4} ?\d{4}\b(?![ -]\d{4})", verhoeff, "7"),
    _rule(_ID, r"(?i)\b(?:bsn|burgerservicenummer)\b\D{0,20}(?P<it>\d{9})\b", lambda n: int(n) > 0 and (
        weighed(n[:8], "98765432") - int(n[8])) % 11 == 0, "7"),
    _rule(_ID, r"(?i)\b(?:ssn|social security(?: number| no\.?)?|passport(?: number| no\.?)?|tax id|national id|"
          r"steuer-?id|ausweisnummer|driving licen[cs]e|driver'?s license)\b[^\d\n]{0,20}?"
          r"\b(?P<it>[A-Z]{0,3}\d[A-Z0-9]{4,16}|\d[\d -]{4,16}\d)\b", lambda n: sum(c in DIGITS for c in n) >= 5),
    _rule("card", r"(?i)\b(?:card|kreditkarte)\b[^\d\n]{0,20}(?P<it>\d(?:[ .-]?\d){12,18})(?!\d)", needs="7"),
    _rule("account", r"(?i)\b(?:account|konto|routing|sort)(?: ?(?:number|nummer|no\.?|nr\.?|code))\b[^\d\n]{0,20}"
          r"(?P<it>\d(?:[ -]?\d){5,19})(?!\d)"),
    _rule("phone", r"(?<![\w+])(?:\+|00)[1-9](?:[ ./()-]{0,3}\d){7,14}(?!\d)", needs="7"),
    _rule("phone", r"(?<![\w.-])(?:1[ .-])?\(?[2-9]\d{2}\)?[ .-]{1,2}\d{3}[ .-]\d{4}(?![\d-])", needs="7"),
    _rule("phone", r"(?<![\w.,:/-])(?:\(0[1-9]\d{0,4}\)|0[1-9]\d{0,4})(?:[ /-]\d{2,8}){1,5}(?![\d-])",
          lambda n: 9 <= len(n) <= 14, "7"),
    _rule("phone", r"(?<![\w.,:/-])0[1-9]\d{8,10}(?!\w)", needs="7"),
    _rule("phone", r"(?i)\b(?:(?:tele)?phone|tel(?:efon)?|mobile?|cell|whatsapp|handy|fax|(?:call|reach)(?: \w{2,4})?"
          r"(?: back)? (?:at|on))\b[^\d\n]{0,16}(?P<it>(?:\d[ ./()-]{0,2}){6,13}\d)(?!\d)", needs="7"),
    _rule("key", r"(?<![\w+/=.-])[A-Za-z0-9+/_=-]{24,400}(?![\w+/=-])", _random),
)
