"""The form of the flow `pipeline`: what its fields and its dictionary change."""

import pytest

from flows import form
from nerveseg.errors import NervesegError


def test_fields_and_dictionary_are_joined_and_empty_fields_change_nothing() -> None:
    fields = {"train.epochs": 8, "train.seed": None}
    assert form.combine(fields, {"train.batch_size": 4}) == {"train.epochs": 8, "train.batch_size": 4}
    assert form.combine(fields, {"train.epochs": 8}) == {"train.epochs": 8}, "the same value twice is clear"


def test_a_parameter_given_twice_is_named_with_both_values() -> None:
    with pytest.raises(NervesegError, match=r"train\.epochs is 8 in its field and 3 in overrides: give each parameter"):
        form.combine({"train.epochs": 8}, {"train.epochs": 3})


def test_a_field_for_a_parameter_that_may_be_null_asks_for_a_value_of_its_type() -> None:
    """Empty is as in params.yaml; null is given in the dictionary."""
    schema = form.field("train.learning_rate").json_schema
    assert schema is not None
    assert {name: schema[name] for name in ("type", "exclusiveMinimum", "maximum")} == {
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": 1,
    }
    assert "anyOf" not in schema
