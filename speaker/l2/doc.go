// Package l2 announces a set of addresses on a set of interfaces by answering ARP and
// Neighbor Discovery from user space, so that no interface has the addresses. It does not
// depend on Services.
//
// announcer.go has the Announcer: which addresses are announced on which interfaces.
// responder.go answers for the addresses of one family on one interface, queue.go orders
// what it sends unasked: announcements and probes. family.go is what a family needs:
// arp.go and ndp.go. filter.go makes the kernel drop all other frames, groups.go joins the
// solicited-node groups. claimants.go remembers which other hosts claim an address.
// stall.go holds answers and announcements, also after the process did not run. asker.go
// asks one host whether it answers for addresses, over asksocket.go. interfaces.go lists
// and watches the node's interfaces. routers.go discovers routers by router
// advertisements, for BGP unnumbered, and reads the default gateways; routerexchange.go
// sends and receives the messages.
//
// In memory are the announced addresses, until the next Set, the other hosts that claim
// them, for a minute or until they are asked again, and the discovered router of each
// interface, until it is lost or another one replaces it (see Routers). All of them are
// lost with the process; clients keep their ARP entries until they expire.
package l2
