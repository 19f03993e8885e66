package config

import (
	"hash/fnv"
	"net/netip"
)

// RankSeed returns the part of RendezvousScore that depends on the name of the node.
func RankSeed(node string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(node))
	return h.Sum64()
}

// RendezvousScore ranks nodes for an address (highest random weight, Thaler and
// Ravishankar 1998): removing a node moves only the addresses that it owned.
func RendezvousScore(seed uint64, addr netip.Addr) uint64 {
	b := addr.As16()
	h := seed
	for _, x := range b {
		h = (h ^ uint64(x)) * 0x100000001b3 // FNV-1a
	}
	// FNV distributes its last bytes badly over the high bits; MurmurHash3's
	// finalizer corrects that.
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
