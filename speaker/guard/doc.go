// Package guard keeps packets to announced addresses that nothing on the node
// wants from bouncing between the node and its router.
//
// A router sends the node what it was told to send. What kube-proxy does not
// translate, such as a ping, or a port that the Service lacks, has the announced
// address as its destination still, and leaves by the node's default route: to
// the router, which sends it back, until its TTL is used up. The guard answers it
// with an ICMP error instead. Services are translated before the kernel looks
// for a route, so that they, and what the node and its pods send, never come by.
//
// The guard is a routing table of its own, which a rule makes packets look up
// that arrive by a guarded link. In it, each announced prefix is unreachable.
// The rule stands after the local table, so that the node's own addresses are
// never cut off, and after everybody's own rules, so that whoever routes such a
// packet on purpose still does. Reverse path filters look up routes as for the
// node's own packets, and don't see it.
//
// An aggregate (a prefix of more than one address) may hold more than announced
// addresses. What the node has a better route to than the one that it would send
// the packet back by stays reachable: destinations of every more specific route,
// and the subnets of its links. Cut off is everything else in the aggregate, for
// packets that pass through the node. So a client must not have its address in
// an aggregate, behind a router: the answer of a pod of another node, on its way
// back through this one, would be taken for a stray packet.
//
// Where the link belongs to a VRF, or the node's default route is in a table
// that a rule selects, nothing is guarded.
package guard
