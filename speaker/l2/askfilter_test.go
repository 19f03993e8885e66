package l2

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/mdlayher/arp"
	"golang.org/x/net/bpf"
)

// TestAskFilter checks which frames are answers.
func TestAskFilter(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		own, host := clientMAC, net.HardwareAddr{2, 0, 0, 0, 0, 1}
		raw, err := f.newAnswerFilter(loopbackIndex, own)
		if err != nil || len(raw) > 50 {
			t.Fatalf("%d instructions: %v", len(raw), err)
		}
		program, _ := bpf.Disassemble(raw)
		vm, err := newVM(program, loopbackIndex)
		if err != nil {
			t.Fatal(err)
		}
		question, ok := f.parse(host, f.solicitation(own, f.client, f.vip, host))
		if !ok {
			t.Fatal("the question is not valid")
		}
		unspecified := map[bool]netip.Addr{true: netip.IPv4Unspecified(), false: netip.IPv6Unspecified()}[f.vip.Is4()]
		probe, ok := f.parse(host, f.solicitation(own, unspecified, f.vip, host))
		if !ok {
			t.Fatal("the question from the unspecified address is not valid")
		}
		good := f.answer(host, question)
		patched := func(offset int, value ...byte) []byte {
			frame := slices.Clone(good)
			copy(frame[offset:], value)
			return frame
		}
		type row struct {
			name  string
			frame []byte
			want  bool
		}
		length := map[bool]int{true: lengthARP, false: lengthND}[f.vip.Is4()]
		rows := []row{
			{"answer", good, true},
			{"answer to the unspecified address", f.answer(host, probe), true},
			{"padded", append(slices.Clone(good), make([]byte, 18)...), true},
			{"of another MAC", f.answer(otherMAC, question), false},
			{"for another address", f.answer(host, message{question: f.other, sender: f.client, mac: own}), false},
			{"to another host", f.answer(host, message{question: f.vip, sender: f.client, mac: otherMAC}), false},
			{"truncated", good[:length-1], false},
			{"empty", good[:14], false},
			{"question", f.solicitation(host, f.vip, f.client, own), false},
		}
		if f.vip.Is4() {
			rows = append(rows,
				row{"broadcast", f.announce(host, f.vip, true)[1], false},
				row{"request", encodeARP(arp.OperationRequest, host, f.vip, zeroMAC, f.vip, own), false},
				row{"another hardware type", patched(14, 0, 6), false},
			)
		} else {
			rows = append(rows,
				row{"to another group", append([]byte{0x33, 0x33, 0, 0, 0, 2}, good[6:]...), false},
				row{"to a MAC like that of all nodes", append([]byte{0x33, 0x33, 0, 0, 0, 9}, good[6:]...), false},
				row{"to a MAC like ours", append([]byte{2, 0, 0, 0, 0, 1}, good[6:]...), false},
				row{"hop limit 254", patched(21, 254), false},
				row{"wrong checksum", patched(56, 1, 1), false},
				row{"truncated in its option", good[:len(good)-1], false},
			)
		}
		for _, row := range rows {
			q := newInquiry(host, []netip.Addr{f.vip})
			q.tasks[f.vip].step = 1
			n, err := vm.Run(row.frame)
			if err != nil {
				t.Fatal(err)
			}
			if m, ok := f.parse(own, row.frame); ok && n > 0 {
				q.receiveAnswer(m.mac, m.claim)
			}
			if got := len(q.answered) == 1; got != row.want || got != q.hasEnded {
				t.Errorf("%s: answered %t, want %t", row.name, got, row.want)
			}
		}
	})
}
