// Package l2 announces a set of addresses on a set of interfaces by answering ARP
// from user space, so that no interface has the addresses. It does not depend on
// Services. Not supported yet are IPv6 addresses, and duplicate address detection
// (for IPv4: address conflict detection, RFC 5227): another host that uses an
// announced address is not detected.
//
// announcer.go has the Announcer: which addresses are announced on which
// interfaces. responder.go answers requests and sends gratuitous ARP on one
// interface, filter.go makes the kernel drop all other ARP. interfaces.go lists
// and watches the node's interfaces. routers.go discovers routers by router
// advertisements, for BGP unnumbered, and reads the default gateways;
// routerexchange.go sends and receives the messages.
//
// In memory are the announced addresses, until the next Set, and the discovered
// router of each interface, until it is lost or another one replaces it (see
// Routers). Both are lost with the process; clients keep their ARP entries until they
// expire.
package l2
