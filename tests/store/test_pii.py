"""What the rules find, and what they leave alone. All numbers here are invented or published as examples."""

import random
import string
import time

import pytest

from tunesmith.store import pii, privacy
from tunesmith.store.privacy import Finding, find, scrub

PERSONAL = {
    "email": ["jo.doe+loans@mail.example.co.uk", "müller@straße.example.de"],
    "phone": ["+49 30 901820", "+1 (202) 555-0143", "0044 20 7946 0018", "(202) 555-0143", "020 7946 0018",
              "01 23 45 67 89", "0171/5550123", "01715550123", "+４９ 30 901820"],
    "iban": ["DE89370400440532013000", "GB82 WEST 1234 5698 7654 32", "nl91abna0417164300",
             "FR14 2004 1010 0505 0001 3M02 606"],
    "card": ["4111 1111 1111 1111", "5500-0000-0000-0004", "340000000000009", "4111\u00a01111\u00a01111\u00a01111"],
    "ip": ["203.0.113.7", "2001:db8::8a2e:370:7334", "fe80::1ff:fe23:4567:890a"],
    "key": ["sk-proj-Zk3nQ8vB1xT7wL5r", "ghp_" + "a1B2c3D4e5" * 4, "AKIAIOSFODNN7EXAMPLE",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dozjgNryP4J3jVmN", "Zm9vYmFyQ29ycDo5aXhQMktMd1o3",
            "9f86d081884c7d659a2feaa0c55ad015", "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----"],
    "national_id": ["078-05-1120", "QQ 12 34 56 C".replace("QQ", "AB"), "12345678Z", "X1234567L", "RSSMRA85T10A562S",
                    "1 85 05 78 006 084 91", "86095742719", "756.9217.0769.85", "811218-9876", "44051401359",
                    "529.982.247-25", "2341 2341 2346", "046-454-286"],
}
"""One of each country or issuer; several are the published examples of their formats."""
HARMLESS = [
    "My order 20240112 came on 2024-01-12 at 12:30:45, version 2.14.3, for $1,234,567.89.",
    "See src/Components/Button2/IndexPageView and std::vector<int>, page 123-45, 50-60 people, 1000000 rows.",
    "The password is required. The token is opaque. Call me back tomorrow.",
    "Rates of 7.25 percent over 360 months: 4111 times 1111; ISBN 978-3-16-148410-0.",
    "abcdefghijklmnopqrstuvwxyz supercalifragilisticexpialidocious 1234567890",
    "127.0.0.1 and 0.0.0.0 are nobody's; 300.1.2.3 is nowhere; a::b is Haskell.",
]


@pytest.mark.parametrize(("kind", "text"), [(k, t) for k, texts in PERSONAL.items() for t in texts])
def test_each_kind_is_found_whole_and_named(kind, text):
    for before, after in (("", ""), ("It is ", ", thanks."), ("(", ")"), ("see: ", "\nand 12 more AND THE REST")):
        found = find(before + text + after)
        assert found == [Finding(len(before), len(before) + len(text), kind)], (before, text)


def test_findings_do_not_overlap_and_many_take_no_longer_each():
    def seconds(times):
        begun = time.perf_counter()
        assert len(find("a@b.co " * times)) == times
        return time.perf_counter() - begun

    seconds(100)
    assert min(seconds(8000) for _ in range(3)) < 32 * min(seconds(1000) for _ in range(3))  # linear: 8, else 64
    overlapping = [Finding(0, 3, "name"), Finding(2, 5, "name"), Finding(3, 3, "name"), Finding(3, 5, "place")]
    assert find("ann xy", [lambda _: overlapping]) == [overlapping[0], overlapping[3]]


@pytest.mark.parametrize("text", HARMLESS)
def test_ordinary_numbers_and_words_stay(text):
    assert [text[f.start:f.end] for f in find(text)] == []


@pytest.mark.parametrize(("kind", "text"), [(k, t) for k in ("iban", "card") for t in PERSONAL[k]])
def test_a_wrong_digit_is_no_such_number(kind, text):
    digit = max(n for n, c in enumerate(text) if c.isdecimal())
    wrong = text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1:]
    wrong = "".join(c for c in wrong if c.isalnum())  # cards written four by four are taken for mistyped ones
    assert kind not in {f.kind for f in find(wrong)}


def test_words_before_a_number_tell_what_it_is():
    assert [f.kind for f in find("My passport number is C01X00T47")] == ["national_id"]
    assert [f.kind for f in find("BSN: 111222333")] == ["national_id"]
    assert [f.kind for f in find("call me at 5550 1234")] == ["phone"]
    assert scrub("ssn 5305421818 card no 6548 0550 6582 9421") == "ssn [NATIONAL_ID] card no [CARD]"  # mistyped
    assert scrub("it is 1478 2145 3698 7412") == "it is [CARD]"  # mistyped, but of no other shape
    assert scrub("account number 1234-5678, sort code 12-34-56") == "account number [ACCOUNT], sort code [ACCOUNT]"
    assert scrub("ssn ends in 4506 ac no 7852") == "ssn ends in 4506 ac no 7852"
    assert scrub("password: hunter2!") == "password: [KEY]"
    assert scrub("https://ann:s3cret@host/x") == "https://[KEY]@host/x"
    assert find("My lucky number is 5550 1234") == []


def test_a_card_between_other_numbers():
    text = "cards 4111 1111 1111 1111 123 5500 0000 0000 0004 12"
    assert [text[f.start:f.end] for f in find(text)] == ["4111 1111 1111 1111", "5500 0000 0000 0004"]


@pytest.mark.parametrize(("check", "digits"), [
    (pii.luhn, "79927398713"), (pii.verhoeff, "2363"), (lambda d: pii.mod97(f"DE{d}"), "89370400440532013000")])
def test_checksums_know_every_wrong_digit(check, digits):
    assert check(digits)
    for n, d in enumerate(digits):
        for other in set(string.digits) - {d}:
            assert not check(digits[:n] + other + digits[n + 1:])


def test_placeholders_are_the_same_within_a_scope_only():
    secret = bytes(32)
    text = "I am jo@example.com. Write to JO@example.com or to al@example.com"
    one = scrub(text, secret, "talk 1")
    first, again, other = (word.strip(".") for word in one.split() if word.startswith("["))
    assert first == again != other and first.startswith("[EMAIL_") and "example" not in one
    assert first not in scrub(text, secret, "talk 2") and first not in scrub(text, b"x" * 32, "talk 1")
    assert scrub(one, secret, "talk 1") == one


def test_a_detector_adds_what_rules_cannot_see():
    def names(text):
        yield Finding(text.index("Ann"), text.index("Ann") + 3, "person")
        yield Finding(0, len(text), "everything")  # overlaps, so it is not taken

    assert scrub("jo@example.com and Ann", more=[names]) == "[EMAIL] and [PERSON]"


def test_presidio_is_asked_through_its_own_interface():
    class Result:
        def __init__(self, start, end, entity_type, score):
            self.start, self.end, self.entity_type, self.score = start, end, entity_type, score

    class Analyzer:
        def analyze(self, text, language):
            assert language == "en"
            return [Result(0, 3, "PERSON", 0.9), Result(4, 8, "PERSON", 0.2)]

    assert scrub("Ann said so", more=[privacy.presidio(analyzer=Analyzer())]) == "[PERSON] said so"


def test_rules_are_linear():
    """Texts made to be slow. Measured: 0.8 s; a rule that is quadratic in them takes minutes."""
    begun = time.process_time()
    for piece in ("1 ", "+1", "a@", "a.", "0:", "1.", "AB12", "eyJa.", "x" * 63 + "@", "pass: ", "://a:", "4111", "(0",
                  "-----BEGIN PRIVATE KEY-----", "12-"):
        find(piece * (40_000 // len(piece)))
    find("".join(random.Random(0).choices(string.printable, k=100_000)))
    assert time.process_time() - begun < 20


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path):
    secret = privacy.secret_of(tmp_path)
    assert privacy.secret_of(tmp_path) == secret and len(secret) == 32
    assert (tmp_path / privacy.KEY).stat().st_mode & 0o777 == 0o600
    (tmp_path / privacy.KEY).write_text("short")
    with pytest.raises(privacy.StorageError, match="damaged"):
        privacy.secret_of(tmp_path)


def test_pseudonyms():
    one = privacy.pseudonym(b"k", "user", "ann")
    assert one.startswith("user-") and one == privacy.pseudonym(b"k", "user", "ann")
    assert one != privacy.pseudonym(b"l", "user", "ann") and privacy.pseudonym(b"k", "user", one) == one
    assert privacy.pseudonym(b"k", "user", "") == "" and privacy.pseudonym(b"k", "user", "user-7") != "user-7"
