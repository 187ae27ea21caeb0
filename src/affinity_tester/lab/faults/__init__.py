"""The faults by name: what each does to the network, and what the client must see of it.

To add one: write the class (its parameters, and `inject`) into the module of what it acts on, and put it into `FAULTS`;
plans, the record and the commands find it there. The catalogue is docs/failure-modes.md; a few are no faults but controls,
which nothing may call one.
"""

from affinity_tester.lab.fault import Fault
from affinity_tester.lab.faults.balancer import Blackout, ClientIpSpread, LbChurn, LocalPolicy, VipFailover
from affinity_tester.lab.faults.client import (
    ApiGone,
    ApiStalled,
    BusyCore,
    ClientNat,
    ClientNatAddress,
    ClientNatFlush,
    ClientSocket,
    ClientSuspended,
    LaptopAsleep,
    SelfInflicted,
)
from affinity_tester.lab.faults.flows import (
    DeadPorts,
    FlowWipe,
    IdleExpiry,
    PacketSpray,
    PortRewrite,
    PortsRewritten,
    SnatCollision,
    StuckFlows,
)
from affinity_tester.lab.faults.nodes import (
    DeadIngress,
    DeadNode,
    DeadTarget,
    LateCheck,
    NodeDown,
    NodePath,
    NodeRehash,
)
from affinity_tester.lab.faults.packets import (
    CountReset,
    DuplicateReorder,
    FirstPacketRace,
    LossDown,
    LossUp,
    LossyPath,
    Mtu,
    MtuOfAll,
    RepliesHeld,
    ServerFrozen,
    TableFull,
)
from affinity_tester.lab.faults.pods import EarlyFlush, HungPod, PodRestart, StaleFlow, TerminatingBackend
from affinity_tester.lab.faults.proxies import ProxyReplaced, SessionsEnd
from affinity_tester.lab.faults.rollouts import PodAdded, PodDeleted, RollingUpdate, ScaledToZero
from affinity_tester.lab.faults.strays import CrossDelivery, OnePacket, WrongSource

FAULTS: dict[str, type[Fault]] = {
    fault.name: fault
    for fault in (
        FlowWipe,
        IdleExpiry,
        NodeRehash,
        SessionsEnd,
        ProxyReplaced,
        StaleFlow,
        StuckFlows,
        DeadTarget,
        DeadNode,
        DeadIngress,
        NodePath,
        DeadPorts,
        TerminatingBackend,
        EarlyFlush,
        PortRewrite,
        PortsRewritten,
        SnatCollision,
        CrossDelivery,
        ClientSocket,
        LocalPolicy,
        ClientIpSpread,
        WrongSource,
        Mtu,
        MtuOfAll,
        FirstPacketRace,
        TableFull,
        LossyPath,
        ServerFrozen,
        VipFailover,
        LbChurn,
        PodRestart,
        ClientNat,
        ClientNatAddress,
        ClientNatFlush,
        PacketSpray,
        OnePacket,
        SelfInflicted,
        PodAdded,
        PodDeleted,
        RollingUpdate,
        ScaledToZero,
        HungPod,
        NodeDown,
        LateCheck,
        Blackout,
        RepliesHeld,
        LossUp,
        LossDown,
        CountReset,
        DuplicateReorder,
        BusyCore,
        ClientSuspended,
        LaptopAsleep,
        ApiStalled,
        ApiGone,
    )
}
"""Every fault that a plan can name, in the catalogue's order; the controls at the end."""
