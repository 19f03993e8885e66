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

	// accepted is how many bytes of a frame the filter lets through: all of them.
	accepted = 0x40000

	// maxRanges keeps the program below the kernel's limit of 4096
	// instructions (BPF_MAXINSNS), at 6 for a range.
	maxRanges = 600
)

// span is a range of IPv4 addresses as numbers.
type span struct{ first, last uint32 }

// filter is a program for the ARP socket: requests for one of the addresses
// wake the process, all other ARP dies in the kernel. With more than maxRanges
// separate ranges the closest are joined, so that some foreign requests come
// through; the process looks again anyway.
func filter(addrs []netip.Addr) ([]bpf.RawInstruction, error) {
	program := []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtLen},
		bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: frameLength, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.LoadAbsolute{Off: offsetOperation, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: operationRequest, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.LoadAbsolute{Off: offsetTargetIP, Size: 4},
	}
	raw, err := bpf.Assemble(append(program, search(spans(addrs))...))
	if err != nil {
		return nil, fmt.Errorf("assemble the filter for %d addresses: %w", len(addrs), err)
	}
	return raw, nil
}

// search is a binary search for the accumulator in sorted spans. Conditional
// jumps reach 255 instructions only, so they hop over an unconditional one.
func search(spans []span) []bpf.Instruction {
	switch len(spans) {
	case 0:
		return []bpf.Instruction{bpf.RetConstant{Val: 0}}
	case 1:
		return []bpf.Instruction{
			bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: spans[0].first, SkipFalse: 2},
			bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: spans[0].last, SkipTrue: 1},
			bpf.RetConstant{Val: accepted},
			bpf.RetConstant{Val: 0},
		}
	}
	middle := len(spans) / 2
	left, right := search(spans[:middle]), search(spans[middle:])
	program := []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: spans[middle].first, SkipTrue: 1},
		bpf.Jump{Skip: uint32(len(left))},
	}
	return append(append(program, left...), right...)
}

// spans covers the addresses with at most maxRanges ranges.
func spans(addrs []netip.Addr) []span {
	var all []span
	for _, a := range slices.SortedFunc(slices.Values(addrs), netip.Addr.Compare) {
		n := number(a)
		if last := len(all) - 1; last >= 0 && n <= all[last].last+1 {
			all[last].last = n
			continue
		}
		all = append(all, span{n, n})
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

func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}
