package l2

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/net/bpf"
)

// The kernel charges the filters of a socket to net.core.optmem_max, the old and the new
// one while one replaces the other. With 20480, the default before Linux 6.8, more than
// 964 instructions cannot be replaced. So the size of a filter does not depend on the
// number of addresses: it tests the low bits of an address in a bitmap, and the responder
// checks again what passes.
const (
	// maxInstructions bounds a filter.
	maxInstructions = 600

	// The bitmap has this many bits. An ARP filter tests two. Addresses of a pool are
	// mostly consecutive, so that their low bits distinguish them as well as a hash would.
	bitmapBits = 2048

	bitsPerWord = 32

	// acceptAll is the filter's result for a frame that passes: the number of its
	// bytes to keep, more than any frame has.
	acceptAll = 0x40000
)

// bitmap is a set of the low bits of addresses, and the range of their low 32 bits.
type bitmap struct {
	words    [bitmapBits / bitsPerWord]uint32
	min, max uint32
}

func newBitmap(addrs []netip.Addr) bitmap {
	b := bitmap{min: ^uint32(0)}
	for _, a := range addrs {
		low := low32(a)
		b.min, b.max = min(b.min, low), max(b.max, low)
		b.words[low%bitmapBits/bitsPerWord] |= 1 << (low % bitsPerWord)
	}
	return b
}

// low32 returns the last four bytes of an address.
func low32(a netip.Addr) uint32 {
	b := a.AsSlice()
	return binary.BigEndian.Uint32(b[len(b)-4:])
}

// test returns a program that accepts the frame if the accumulator is in the set, and
// continues behind its last instruction otherwise.
func (b bitmap) test() []bpf.Instruction {
	index := []bpf.Instruction{ // of the word
		bpf.TAX{},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: bitmapBits - 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 5},
	}
	search := searchWord(b.words[:], 0)
	for i, ins := range search {
		if ins == toEnd {
			search[i] = bpf.Jump{Skip: uint32(len(search) - i - 1)}
		}
	}
	check := []bpf.Instruction{ // the bit of the word in the accumulator
		bpf.StoreScratch{Src: bpf.RegA},
		bpf.TXA{},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: bitsPerWord - 1},
		bpf.TAX{},
		bpf.LoadScratch{Dst: bpf.RegA},
		bpf.ALUOpX{Op: bpf.ALUOpShiftRight},
		bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: 1, SkipTrue: 1},
		bpf.RetConstant{Val: acceptAll},
	}
	inRange := slices.Concat(index, search, check)
	return slices.Concat([]bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: b.min, SkipTrue: 1},
		bpf.Jump{Skip: uint32(len(inRange)) + 2},
		bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: b.max, SkipTrue: 1},
		bpf.Jump{Skip: uint32(len(inRange))},
	}, inRange)
}

// toEnd is replaced by a jump to the end of the search.
var toEnd = bpf.Instruction(bpf.Jump{Skip: ^uint32(0)})

// searchWord returns a binary search for the accumulator, the index of a word, in the
// words from first on. It leaves the word in the accumulator.
func searchWord(words []uint32, first uint32) []bpf.Instruction {
	if !slices.ContainsFunc(words, func(w uint32) bool { return w != words[0] }) {
		return []bpf.Instruction{bpf.LoadConstant{Dst: bpf.RegA, Val: words[0]}, toEnd}
	}
	middle := uint32(len(words) / 2)
	left, right := searchWord(words[:middle], first), searchWord(words[middle:], first+middle)
	// A conditional jump reaches only 255 instructions.
	branch := []bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: first + middle, SkipTrue: uint8(min(len(left), 255))}}
	if len(left) > 255 {
		branch = []bpf.Instruction{
			bpf.JumpIf{Cond: bpf.JumpLessThan, Val: first + middle, SkipTrue: 1},
			bpf.Jump{Skip: uint32(len(left))},
		}
	}
	return slices.Concat(branch, left, right)
}

// packetOtherHost is the packet type of frames that are not for this host (packet(7)).
const packetOtherHost = 3

// requireInterface drops the frames that the interface received for another host or
// another interface. A socket also receives those of the VLAN and macvlan interfaces on
// its interface, as frames of these, and those of other VLANs, as frames for another
// host. In both cases the kernel has removed the VLAN tag, so that it cannot be tested. A
// frame with only a priority (VLAN 0) is an ordinary one.
func requireInterface(ifindex int) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtInterfaceIndex},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(ifindex), SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: packetOtherHost, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}
}

// requireLength drops frames that are shorter.
func requireLength(n uint32) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtLen},
		bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: n, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}
}

// requireField drops frames with another value of size bytes at the offset.
func requireField(offset uint32, size int, value uint32) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: offset, Size: size},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: value, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}
}

func assembleFilter(addrs int, program []bpf.Instruction) ([]bpf.RawInstruction, error) {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, fmt.Errorf("assemble the filter for %d addresses: %w", addrs, err)
	}
	return raw, nil
}
