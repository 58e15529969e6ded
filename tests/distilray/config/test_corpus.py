import pytest
from pydantic import ValidationError

from distilray.config.corpus import WikipediaSource


def test_rules_for_templates_are_words_or_formats() -> None:
    rules = {"jct": "{1|road} {2}", "Some_notice": "nothing", "XYZ": "drop sentence", "half": "½"}
    assert WikipediaSource.model_validate({"path": "x", "templates": rules}).templates == rules


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"jct": "{1"}, "not a format"),
        ({"jct": "{}"}, "not a format"),
        ({"jct": "{{1}}"}, "not a format"),
        ({"jct": "{1|}"}, "not a format"),
        ({"jct": "drop_sentence"}, "write it as 'drop sentence'"),
        ({"jct": "Nothing"}, "write it as 'nothing'"),
        ({"jct": ""}, "at least 1 character"),
        ({"": "nothing"}, "pattern"),
        ({"{{jct}}": "nothing"}, "pattern"),
        ({"My road": "nothing", "my_road": "{1}"}, "two rules for one template"),
    ],
)
def test_other_rules_for_templates_are_refused(rules: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        WikipediaSource.model_validate({"path": "x", "templates": rules})
