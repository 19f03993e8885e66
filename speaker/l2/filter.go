package l2

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/net/bpf"
)

// Offsets in an Ethernet frame that carries ARP for IPv4 (RFC 826).
const (
	offsetOperation = 20
	offsetTargetIP  = 38
	frameLength     = 42
)

const (
	operationRequest = 1

	// acceptAll is the filter's result for a frame that passes: the number of its
	// bytes to keep, more than any frame has.
	acceptAll = 0x40000

	// maxRanges keeps the program below the kernel's limit of 4096 instructions
	// (BPF_MAXINSNS): a range takes 6.
	maxRanges = 600
)

// addrRange is a range of IPv4 addresses as numbers.
type addrRange struct{ first, last uint32 }

// newFilter returns a program for the ARP socket: requests for one of the addresses
// wake the process, and the kernel drops all other ARP. More than maxRanges separate
// ranges are reduced by joining the closest ones, so that some foreign requests
// pass; the process checks each request again.
func newFilter(addrs []netip.Addr) ([]bpf.RawInstruction, error) {
	program := []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtLen},
		bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: frameLength, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.LoadAbsolute{Off: offsetOperation, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: operationRequest, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.LoadAbsolute{Off: offsetTargetIP, Size: 4},
	}
	raw, err := bpf.Assemble(append(program, rangeSearch(coverRanges(addrs))...))
	if err != nil {
		return nil, fmt.Errorf("assemble the ARP filter for %d addresses: %w", len(addrs), err)
	}
	return raw, nil
}

// rangeSearch returns a binary search for the accumulator in sorted ranges.
// Conditional jumps reach only 255 instructions, so they skip an unconditional one.
func rangeSearch(ranges []addrRange) []bpf.Instruction {
	switch len(ranges) {
	case 0:
		return []bpf.Instruction{bpf.RetConstant{Val: 0}}
	case 1:
		return []bpf.Instruction{
			bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: ranges[0].first, SkipFalse: 2},
			bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: ranges[0].last, SkipTrue: 1},
			bpf.RetConstant{Val: acceptAll},
			bpf.RetConstant{Val: 0},
		}
	}
	middle := len(ranges) / 2
	left, right := rangeSearch(ranges[:middle]), rangeSearch(ranges[middle:])
	program := []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: ranges[middle].first, SkipTrue: 1},
		bpf.Jump{Skip: uint32(len(left))},
	}
	return append(append(program, left...), right...)
}

// coverRanges returns at most maxRanges ranges that cover the addresses.
func coverRanges(addrs []netip.Addr) []addrRange {
	var all []addrRange
	for _, a := range slices.SortedFunc(slices.Values(addrs), netip.Addr.Compare) {
		n := toUint32(a)
		if last := len(all) - 1; last >= 0 && n <= all[last].last+1 {
			all[last].last = n
			continue
		}
		all = append(all, addrRange{n, n})
	}
	if len(all) <= maxRanges {
		return all
	}
	gaps := make([]uint32, 0, len(all)-1)
	for i := 1; i < len(all); i++ {
		gaps = append(gaps, all[i].first-all[i-1].last)
	}
	slices.Sort(gaps)
	widest := gaps[len(gaps)-maxRanges+1] // at least this wide: at most maxRanges-1 gaps stay
	joined, left := all[:1:1], maxRanges-1
	for _, s := range all[1:] {
		if last := len(joined) - 1; s.first-joined[last].last < widest || left == 0 {
			joined[last].last = s.last
			continue
		}
		joined, left = append(joined, s), left-1
	}
	return joined
}

func toUint32(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}
