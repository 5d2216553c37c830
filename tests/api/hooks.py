"""Values of the formats that the description of the API names: what a pattern cannot say, such as a checksum."""

import os
import re
from pathlib import Path

import schemathesis
from hypothesis import strategies as st

# A time with a zone of whole minutes, and a letter that is seen.
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,9})?)?([+-]\d\d:\d\d)?")
LETTER = re.compile(r"[^\W_]")
WORDS = Path(__file__).parents[2].joinpath("src/mesh/check_words.txt").read_text().split()


def given(name):
    """Values that `run.py` found out."""
    return st.sampled_from(os.environ[name].split("\n"))


def in_any_case(text):
    return st.sampled_from([text, text.upper(), text.title()])


words = st.one_of(
    st.lists(st.sampled_from(WORDS), min_size=4, max_size=4).map(" ".join),
    given("SIGIL_API_WORDS"),
)
schemathesis.openapi.format("sigil-check-words", words.flatmap(in_any_case))
schemathesis.openapi.format("sigil-code", given("SIGIL_API_CODES").flatmap(lambda code: st.sampled_from([code, code.upper()])))
schemathesis.openapi.format("sigil-address", given("SIGIL_API_ADDRESSES"))
schemathesis.openapi.format("sigil-name", st.sampled_from(["mia", "family", "hub"]))
schemathesis.openapi.format("sigil-entity-tags", st.sampled_from(["*", '"9f86d081884c7d659a2feaa0c55ad015"', 'W/"a", "b"']))
schemathesis.openapi.format("sigil-principal", st.sampled_from(["person:mia", "agent:mia/claude", "device:attic"]))
schemathesis.openapi.format("sigil-rights", st.sampled_from(["", '[people.mia]\nname = "Mia"\n']))
schemathesis.openapi.format(
    "sigil-time",
    st.datetimes(timezones=st.one_of(st.none(), st.timezones())).map(lambda time: time.isoformat()).filter(TIME.fullmatch),
)
schemathesis.openapi.format("sigil-memory-text", st.text(min_size=1, max_size=200).filter(LETTER.search))
