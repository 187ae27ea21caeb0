"""Every reason of a judgement has its words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core.judging import reasons as why
from affinity_tester.report.reason_text import reason_text

REASONS: list[Any] = list({cls.__name__: cls for cls in why.Reason.__subclasses__()}.values())


@pytest.mark.parametrize("kind", REASONS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_reason_has_its_words_and_they_hold_its_values(kind: Any, data: st.DataObject) -> None:
    reason = data.draw(st.from_type(kind))
    text = reason_text(reason)
    assert text
    for name in ("pod", "node"):
        assert f'"{getattr(reason, name, None)}"' in text or not hasattr(reason, name)


@pytest.mark.parametrize("doubt", why.Doubt)
def test_every_doubt_has_its_words(doubt: why.Doubt) -> None:
    assert reason_text(why.InDoubt(doubt))


def test_a_reason_without_words_is_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError, match="no words for Reason"):
        reason_text(why.Reason())
