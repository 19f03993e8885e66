// Package guard keeps stray packets to announced addresses from looping between the
// node and its router.
//
// The router sends all packets to an announced address to the node. kube-proxy does
// not translate some of them, such as a ping or a packet to a port that the Service
// does not have. Such a packet still has the announced address as its destination,
// so it leaves by the node's default route to the router, which sends it back, until
// its TTL has expired. The guard answers it with an ICMP error instead. Packets to
// Services are translated before the kernel looks up a route, so the guard never
// affects them or what the node and its pods send.
//
// The guard is a routing table of its own, with a rule for packets that arrive on a
// guarded interface. In it, each announced prefix is unreachable. The rule follows
// the local table, so that the node's own addresses stay reachable, and the rules of
// other programs, so that a route that was made on purpose still applies. Reverse
// path filters look up routes as for the node's own packets, and are not affected.
//
// An aggregate (a prefix of more than one address) may contain addresses that are
// not announced. Those with a more specific route in the node's main table stay
// reachable, and so do the subnets of its interfaces. All other addresses of the
// aggregate are unreachable for packets that the node forwards. So a client behind a
// router must not have its address in an aggregate: the reply of a pod of another
// node that is routed through this one would be taken for a stray packet.
//
// If the interface belongs to a VRF, or the node's default route is in a table that a
// rule selects, nothing is guarded.
//
// guard.go is the entry: Set and Remove. plan.go computes the desired tables and the
// changes, and is pure. apply.go reads and changes the kernel's tables. In memory is
// only the last state with the time when the kernel was found to match it; it is
// valid for 10 s.
package guard
