package config

import (
	"hash/fnv"
	"math/bits"
	"net/netip"
)

// RankSeed returns the part of RendezvousScore that depends on the name of the node.
func RankSeed(node string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(node))
	return h.Sum64()
}

// RendezvousScore ranks nodes of equal weight for an address (highest random weight,
// Thaler and Ravishankar 1998): removing a node moves only the addresses that it owned.
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

// ScoreUnit is 1 in a WeightedScore.
const ScoreUnit = 1 << 24

// WeightedScore ranks nodes of different weights, from 0 to v1alpha1.MaxNodeWeight: the
// probability that a node ranks first is its share of the sum of all weights (the
// logarithmic method of Schindelhauer and Schomaker 2005). It is weight / -log2(hash / 2^64),
// times ScoreUnit, where hash is the RendezvousScore. If the weight of one node changes,
// addresses move only from or to this node. Of equal scores, the higher hash ranks first:
// nodes of one weight rank as by the hash alone, and those of weight 0 below all others.
//
// Only integers are used, so that nodes of all architectures compute the same.
func WeightedScore(hash uint64, weight int32) uint64 {
	return uint64(weight) << 32 * ScoreUnit / negativeLog2(hash)
}

// negativeLog2 returns -log2(hash / 2^64), more than 0, in units of 2^-32. It is exact to one
// unit, and does not increase with the hash.
func negativeLog2(hash uint64) uint64 {
	hash = max(hash, 1)
	zeros := bits.LeadingZeros64(hash)
	x := hash << zeros // from 1 to 2, in units of 2^-63
	var fraction uint64
	for range 32 {
		// The next bit of log2(x) is 1 if x² is not less than 2.
		hi, lo := bits.Mul64(x, x)
		bit := hi >> 63
		fraction = fraction<<1 | bit
		x = hi<<(1^bit) | lo>>(63+bit)
	}
	return uint64(zeros+1)<<32 - fraction
}
