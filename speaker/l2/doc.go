// Package l2 answers ARP for a set of addresses on a set of links, from user
// space: the addresses are on no interface. It knows nothing of Services.
package l2
