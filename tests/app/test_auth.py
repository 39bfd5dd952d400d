"""API keys: who is let in, as whom, and what stops the server."""

from __future__ import annotations

import hashlib

import pytest

from app.auth import ANYONE, Keys, make_key
from app.errors import RequestError


def test_keys() -> None:
    """A made key is known by its hash; anything else is refused in the same way."""
    key, pair = make_key("ann")
    keys = Keys([pair, f"bob:{hashlib.sha256(b'secret').hexdigest()}"])
    assert keys.caller(f"Bearer {key}") == "ann"
    assert keys.caller("bearer secret") == "bob"
    for wrong in (None, "", "Bearer", "Bearer ", "Basic secret", "secret", "Bearer Secret", "Bearer \udce4"):
        with pytest.raises(RequestError) as caught:
            keys.caller(wrong)
        assert caught.value.code == "invalid_api_key"
    assert Keys([]).caller("Bearer anything") == ANYONE


@pytest.mark.parametrize("pairs", [["secret"], ["a b:" + "0" * 64], ["a:" + "g" * 64], ["a:" + "0" * 64] * 2])
def test_keys_of_a_wrong_form_stop_the_server(pairs: list[str]) -> None:
    """Better no server than one that is open by mistake."""
    with pytest.raises(ValueError, match="API key"):
        Keys(pairs)


@pytest.mark.parametrize("place", [0, 1, 2, 15, 16, 30, 31])
def test_every_byte_of_a_hash_counts(place: int) -> None:
    """A key whose hash differs from the stored one in a single byte is another key."""
    digest = bytearray(hashlib.sha256(b"secret").digest())
    digest[place] ^= 1
    with pytest.raises(RequestError) as caught:
        Keys([f"ann:{digest.hex()}"]).caller("Bearer secret")
    assert caught.value.code == "invalid_api_key"


def test_each_of_many_keys_has_its_own_name() -> None:
    """Wherever it stands among them, and with spaces around it."""
    names = ["a", "b.c", "d_e-f", "g" * 64]
    keys = Keys([f"{name}:{hashlib.sha256(name.encode()).hexdigest().upper()}" for name in names])
    assert [keys.caller(f"BEARER  {name} ") for name in names] == names


@pytest.mark.parametrize("name", ["", "a b", "a:b", "g" * 65, "é"])
def test_names_that_settings_cannot_hold(name: str) -> None:
    """A key is not made for them either."""
    with pytest.raises(ValueError, match="name of an API key"):
        make_key(name)


def test_keys_are_never_made_twice() -> None:
    """And say what they are by how they begin."""
    made = [make_key("ann")[0] for _ in range(20)]
    assert len(set(made)) == 20
    assert all(key.startswith("ck_") and len(key) >= 43 for key in made)
