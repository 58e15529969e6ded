from distilray.operations.ray_token import Token, find_token


def test_the_token_is_sought_where_ray_seeks_it(tmp_path):
    file, other = tmp_path / ".ray/auth_token", tmp_path / "other"
    file.parent.mkdir()
    file.write_text("f11e" * 16 + "\n")
    other.write_text("07e4\n")
    assert find_token({"RAY_AUTH_TOKEN": "a"}, tmp_path) == Token("a", "RAY_AUTH_TOKEN")
    assert find_token({"RAY_AUTH_TOKEN_PATH": str(other)}, tmp_path) == Token("07e4", str(other))
    assert find_token({}, tmp_path) == Token("f11e" * 16, str(file))
    assert find_token({}, tmp_path / "nobody") is None
    file.write_text("\n")
    assert find_token({}, tmp_path) is None


def test_a_token_is_not_shown_by_its_own_representation():
    token = Token("5ec2e7" * 10, "RAY_AUTH_TOKEN")
    assert token.value not in repr(token)
