"""Any event, as hypothesis makes it from the types of its fields."""

from hypothesis import strategies as st

from affinity_tester.core import events as ev
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.judging.reasons import Reason

int64 = st.integers(-(2**63) + 1, 2**63 - 1)
st.register_type_strategy(int, int64)
st.register_type_strategy(TransportAddress, st.builds(TransportAddress, ip=st.text(), port=int64))


def concrete(cls: type) -> list[type]:
    """The classes that stand for a fact: those without subclasses."""
    below = [sub for sub in cls.__subclasses__() if getattr(ev, sub.__name__, None) is sub]
    return [found for sub in below for found in concrete(sub)] if below else [cls]


st.register_type_strategy(
    Reason, st.one_of([st.from_type(cls) for cls in {c.__name__: c for c in Reason.__subclasses__()}.values()])
)
st.register_type_strategy(ev.Case, st.one_of([st.from_type(cls) for cls in concrete(ev.Case)]))
EVENT_CLASSES = concrete(ev.Event)
any_event = st.one_of([st.from_type(cls) for cls in EVENT_CLASSES])
